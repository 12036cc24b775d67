"""The gateway's settings, read from the environment here and nowhere else.

docs/reference/settings.md is generated from this module. A variable's name is MICROTOME_ and the field's name in
capitals, such as MICROTOME_REDIS_URL.
"""

import os
import re
import ssl
from contextlib import suppress
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import combinations
from math import ceil
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from microtome.machine import cores, memory
from microtome.opening import DEFAULT_FORMATS, FORMATS
from service.auth import KeyLimits, KeyRecord, read_keys, with_defaults
from service.cache.redis.url import place
from service.telemetry import trace_faults
from service.telemetry.logs import LogFormat, LogLevel

PREFIX = "MICROTOME_"

_MB = 1 << 20

_FORMS = {
    "host": (r"[\w.:%-]+", "an address such as 0.0.0.0 or ::"),
    "model_server": (
        r"(?:dns:(?://[^/\s]*/)?)?[^\s/]+:[1-9][0-9]{0,4}|(?:unix|unix-abstract|ipv4|ipv6|vsock|xds):\S+",
        "host:port, dns:///name:port or unix:/path",
    ),
    "url_hosts": (
        r"(?:\*\.)?[\w.-]+|\[?[0-9A-Fa-f:.]+\]?",
        "hosts such as *.example.com, without scheme, port and path",
    ),
    "cors_origins": (
        r"\*|[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[1-9][0-9]{0,4})?",
        "origins as browsers send them, such as https://shop.example.com, in small letters and without a path",
    ),
}
"""Forms of text by setting, and what is said of them."""

_DECODE_SHARE = 0.6
"""Of the memory, for decoding; the rest is for the interpreter, request bodies and caches."""

_FORMAT_NAMES = {"jpg": "jpeg", "tif": "tiff", "jp2": "jpeg2000"}
"""Formats by the names of their files."""

_HMAC_KEY_CHARACTERS = 16

_OF_KEYS = ("key_images_in_flight", "key_requests_per_minute", "key_images_per_minute", "cache_private")

REMOVED = {
    f"{PREFIX}BODY_PAUSE": "10 s",
    f"{PREFIX}CACHE_BREAKER_WINDOW": "1 s",
    f"{PREFIX}CACHE_UNWRITTEN_BYTES": "32 MiB",
    f"{PREFIX}LONGEST_WAIT": "5 s",
    f"{PREFIX}EXIT_WITH_PARENT": "false; python -m microtome.parent does the same",
    f"{PREFIX}MAX_GRPC_CALLS": "1000",
    f"{PREFIX}MAX_STREAM_IMAGES": "64",
    f"{PREFIX}URL_TIMEOUT": "5 s",
}
"""Settings that have become constants, and their values."""


class Settings(BaseSettings):
    """Read once, at start; frozen."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, allow_inf_nan=False)

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all of IPv4, :: for IPv4 and IPv6.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    workers: int = Field(
        1,
        gt=0,
        description="Processes that share the port. Each has limits and a memory cache of its own; metrics are added "
        "up, except those of the process itself.",
    )
    model_server: Annotated[tuple[str, ...], NoDecode] = Field(
        min_length=1,
        description="TensorFlow Serving or the embedded model server: `host:port`, `dns:///name:port` or `unix:/path`; "
        "several that serve the same models separated by commas. A name is looked up every second, and each of its "
        "addresses is a server of its own.",
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        min_length=1,
        description="Names of the models to serve, separated by commas. A pattern, such as `*` or `lite*`, stands for "
        "all that the model servers have; these are added and removed meanwhile, see `MICROTOME_MODELS_CONFIG`.",
    )
    default_model: str | None = Field(
        None, description="Model or family of requests that name none. Unset: the first of `MICROTOME_MODELS`."
    )
    models_config: Path | None = Field(
        None,
        description="The `models.config` that TensorFlow Serving reads, read every second: it names the models for "
        "patterns in `MICROTOME_MODELS`. Unset: the model servers are asked, and only the embedded one can tell.",
    )
    version_label: str | None = Field(
        None,
        min_length=1,
        description="Label of the version to use, such as `stable`, as the model server's configuration gives it and "
        "`microtome rollout` moves it. While no version has it, the version in use is kept, or the newest "
        "taken; a gateway that starts waits while that version is being loaded. Unset: the newest.",
    )
    version_wait: float = Field(
        30.0,
        ge=0,
        description="Seconds after which a new version is used that not all model servers serve; until then the one "
        "before it is used, on the servers that serve it.",
    )
    required_models: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Models without which the gateway is not ready, separated by commas. Unset: it is ready while any "
        "model, or the cache, can answer.",
    )
    accept_deviation: Annotated[dict[str, float], NoDecode] = Field(
        {},
        description="Deviations from golden vectors that are served although they exceed a manifest's tolerance, as "
        "relative L2 differences: `MODEL=0.01`, several separated by commas, `*=0.01` for every model. Vectors of "
        "these models have a fingerprint and cache keys of their own.",
    )
    redis_url: str | None = Field(
        None,
        description="Redis or Valkey that gateways share as cache: `redis://`, `rediss://` (TLS) or `unix://`; with "
        "Sentinel `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE`, a cluster "
        "`redis+cluster://HOST:PORT,HOST:PORT`; password as `redis://:PASSWORD@…`, its special characters as `%XX`. "
        "Options and rights: docs/redis.md. Unset: none.",
    )
    cache_hmac_key: SecretStr | None = Field(
        None,
        description="Secret of 16 characters or more that all gateways of a Redis share. Values there are signed with "
        "it (HMAC-SHA256), and those that are not are misses: who can write to Redis cannot forge a vector. Unset: "
        "values have a checksum only.",
    )
    cache_hmac_key_file: Path | None = Field(None, description="File with that secret, in place of the variable.")
    redis_ttl: float = Field(
        7 * 24 * 3600, gt=0, le=1e9, description="Seconds that a vector stays in Redis, give or take a tenth."
    )
    cache_bytes: int = Field(
        64 * _MB,
        ge=0,
        description="Bytes of the cache in this process: three quarters for vectors, one for responses; 0 for none.",
    )
    cache_float16: bool = Field(
        False, description="Keep vectors as float16: half the memory, relative errors up to 0.05 % in hits."
    )
    cache_budget: float = Field(
        0.05,
        gt=0,
        description="Seconds that Redis may take to answer a read; then the request continues without it. Writes, for "
        "which no request waits, have 5 s.",
    )
    cache_lease: float = Field(
        5.0,
        ge=0,
        description="Seconds that a gateway's claim on a vector that it computes lasts among gateways that share "
        "Redis; then, also if that gateway has died, another computes it. 0: each computes for itself.",
    )
    max_image_bytes: int = Field(20 * _MB, gt=0, description="Largest encoded image, in bytes.")
    max_image_pixels: int = Field(
        50_000_000, gt=0, description="Largest image, in pixels; refused on its header, before decoding."
    )
    max_images: int = Field(64, gt=0, description="Most images in one request.")
    max_body_bytes: int = Field(64 * _MB, gt=0, description="Largest request body, in bytes.")
    max_images_in_flight: int = Field(
        256, gt=0, description="Images in flight at a time; further requests are answered 429."
    )
    max_body_bytes_in_flight: int = Field(
        256 * _MB, gt=0, description="Bytes of request bodies held at a time; further requests are answered 429."
    )
    deadline: float = Field(
        30.0, gt=0, le=1e6, description="Seconds that a request may take, from its head to its answer."
    )
    inference_slots: int = Field(
        2,
        gt=0,
        description="Concurrent Predict calls per model on each model server that serves it: more servers, more calls. "
        "Beside a call of up to eight images another one starts with as many; while all are busy, images are batched, "
        "and one extra call starts once eight wait.",
    )
    api_keys: str = Field(
        "",
        description="API keys, one a line or separated by `;`, each `NAME sha256:HASH` with any of `images=N bytes=N "
        "requests_per_minute=N images_per_minute=N cache=private priority=bulk`: its owner, what "
        '`printf %s "$KEY" | sha256sum` prints, and what the owner may do, see docs/tenants.md. An owner may have '
        "several.",
    )
    api_keys_file: Path | None = Field(None, description="File with more API keys, one a line; `#` begins a comment.")
    key_images_in_flight: int | None = Field(
        None,
        gt=0,
        description="Images that the owner of a key may have in flight unless the key says `images=N`. Unset: half of "
        "MICROTOME_MAX_IMAGES_IN_FLIGHT where there are several owners; half of the bytes, too.",
    )
    key_requests_per_minute: int | None = Field(
        None,
        gt=0,
        description="Requests with images that the owner of a key may send in a minute to all gateways that share "
        "Redis, unless the key says `requests_per_minute=N`; beyond it they are answered 429. Unset: any number.",
    )
    key_images_per_minute: int | None = Field(
        None, gt=0, description="The same for images, and for `images_per_minute=N`; images of streams wait instead."
    )
    cache_private: bool = Field(
        False,
        description="Each owner of a key uses only vectors that its own requests have computed, as with "
        "`cache=private`. Otherwise any caller can tell whether another has embedded a given file.",
    )
    allow_anonymous: bool = Field(
        False, description="Serve all callers without API keys. Without keys the gateway only starts if this is true."
    )
    url_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts that images named by address are fetched from, separated by commas; `*.example.com` "
        "covers all its subdomains. Unset: none. Private and local addresses are never contacted.",
    )
    dialects: str = Field(
        "all",
        description="Contracts of other systems to serve in addition to our own: `all`, `none`, or names separated by "
        "commas; see docs/guides/dialects.md.",
    )
    path_prefix: str = Field(
        "",
        description="Path below which a proxy shows the gateway, such as `/api/images`; the proxy may take it off or "
        "leave it. Addresses in `/openapi.json` and `/` have it. Unset: they have what `X-Forwarded-Prefix` says, "
        "which decides nothing else.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins whose pages may call the gateway from a browser, separated by commas, such as "
        "`https://shop.example.com`; `*` for all. Unset: none.",
    )
    page: bool = Field(
        False,
        description="Answer browsers at `/` with a page to drop photos on, which calls the public endpoints; see "
        "docs/page.md. Other callers get JSON there in any case. `microtome up` sets it to true.",
    )
    operations_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Separate port for /metrics, which is then not on the main port; health checks are on both.",
    )
    grpc_port: int | None = Field(
        None, ge=1, le=65535, description="Port to serve gRPC on, at the same address; unset: none."
    )
    grpc_certificate: Path | None = Field(
        None, description="File with the gRPC port's certificate chain, in PEM; unset: no encryption."
    )
    grpc_key: Path | None = Field(None, description="File with the certificate's private key, in PEM.")
    grpc_client_ca: Path | None = Field(
        None,
        description="File with CA certificates, in PEM, that sign callers' certificates; if set, callers need one.",
    )
    access_log: bool = Field(
        False,
        description="Log a line for each request: route, status, time, stages, images, model, name of the API key.",
    )
    drain: int = Field(20, ge=0, description="Seconds that requests in flight have to finish after SIGTERM.")
    formats: Annotated[tuple[str, ...], NoDecode] = Field(
        tuple(name.lower() for name in DEFAULT_FORMATS),
        min_length=1,
        description="Image formats that are read, separated by commas: those of the default, `jpeg2000` and `ppm`. The "
        "last two are decoded in processes of their own, since their decoders hold up all other work.",
    )
    decode_threads: int = Field(
        default_factory=lambda fields: max(1, ceil(cores() / fields.get("workers", 1))),
        gt=0,
        description="Images decoded at a time, in each worker: the cores that affinity and CPU quota allow, divided by "
        "the workers.",
        json_schema_extra={"default": "cores"},
    )
    decode_bytes: int = Field(
        default_factory=lambda fields: int(_DECODE_SHARE * memory() / fields.get("workers", 1)),
        ge=16 * _MB,
        description="Bytes of memory that images being decoded may need at a time, in each worker: 60 % of the "
        "container's limit or of the machine's memory, divided by the workers. Images wait for their share; one that "
        "needs more than all of it is refused. See docs/images.md.",
        json_schema_extra={"default": "60 %"},
    )
    log_format: LogFormat = Field("console", description="`console` for people, `json` for machines.")
    log_level: LogLevel = Field("info", description="`debug`, `info`, `warning` or `error`.")

    @field_validator("models", "model_server", "url_hosts", "required_models", "cors_origins", "formats", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator(*_FORMS)
    @classmethod
    def _formed(cls, value: str | tuple[str, ...], info: ValidationInfo) -> str | tuple[str, ...]:
        form, expected = _FORMS[info.field_name or ""]
        for one in (value,) if isinstance(value, str) else value:
            if not re.fullmatch(form, one):
                raise ValueError(f"expected {expected}; received {one[:80]!r}")
        return value

    @field_validator("accept_deviation", mode="before")
    @classmethod
    def _by_model(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        found: dict[str, float] = {}
        for entry in filter(None, map(str.strip, value.split(","))):
            model, _, number = entry.rpartition("=")
            with suppress(ValueError):
                found[model.strip()] = float(number)
            if not 0 < found.get(model.strip(), 0) <= 1 or not model.strip():
                raise ValueError(f"expected MODEL=NUMBER with a number above 0 and at most 1; received {entry[:80]!r}")
        return found

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(_FORMAT_NAMES.get(name.lower(), name.lower()) for name in value))
        known = {name.lower() for name in FORMATS}
        for name in names:
            if name not in known:
                raise ValueError(f"no such format: {name[:40]!r}; expected some of {', '.join(sorted(known))}")
        return names

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, value: str | None) -> str | None:
        # A Secret made from a file ends in a newline.
        address = (value or "").strip()
        if address:
            place(address)
        return address or None

    @field_validator("path_prefix")
    @classmethod
    def _free_prefix(cls, value: str) -> str:
        # Imported here since the commands that read settings serve nothing.
        from service.http.middleware import PREFIX as FORM  # noqa: PLC0415
        from service.http.middleware import ROUTES  # noqa: PLC0415

        prefix = value.rstrip("/")
        if prefix and not FORM.fullmatch(prefix):
            raise ValueError(f"expected a path such as /api/images; received {value[:80]!r}")
        if (first := prefix.split("/")[1:2]) and first[0] in ROUTES:
            raise ValueError(f"expected a path that does not begin with /{first[0]}, which is one of the gateway's own")
        return prefix

    @field_validator("dialects")
    @classmethod
    def _known_dialects(cls, value: str) -> str:
        # Imported here since the commands that read settings serve nothing.
        from service.http.compat import spoken  # noqa: PLC0415

        spoken(value)
        return value

    @model_validator(mode="after")
    def _callers_are_chosen(self) -> Self:
        if self.key_records() and self.allow_anonymous:
            raise ValueError(f"{PREFIX}ALLOW_ANONYMOUS is true and there are API keys; expected one of the two")
        if not self.key_records() and not self.allow_anonymous:
            raise ValueError(
                f"expected {PREFIX}API_KEYS or {PREFIX}API_KEYS_FILE, or {PREFIX}ALLOW_ANONYMOUS=true to serve all "
                "callers"
            )
        if self.allow_anonymous and (named := [name for name in _OF_KEYS if getattr(self, name)]):
            raise ValueError(f"{PREFIX}{named[0].upper()} is about owners of API keys, and there are none")
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        ports = ("port", "grpc_port", "operations_port")
        for one, other in combinations([name for name in ports if getattr(self, name)], 2):
            if getattr(self, one) == getattr(self, other):
                raise ValueError(f"expected {PREFIX}{one.upper()} and {PREFIX}{other.upper()} to differ")
        return self

    @model_validator(mode="after")
    def _required_models_are_served(self) -> Self:
        # A name is a pattern of itself.
        if names := ", ".join(n for n in self.required_models if not any(fnmatchcase(n, m) for m in self.models)):
            raise ValueError(f"{PREFIX}REQUIRED_MODELS names {names}; expected names that {PREFIX}MODELS has")
        return self

    @model_validator(mode="after")
    def _secrets_are_complete(self) -> Self:
        self.hmac_key()
        if (self.grpc_certificate is None) != (self.grpc_key is None):
            raise ValueError(f"expected {PREFIX}GRPC_CERTIFICATE and {PREFIX}GRPC_KEY together; received one of them")
        if self.grpc_client_ca is not None and self.grpc_certificate is None:
            raise ValueError(f"{PREFIX}GRPC_CLIENT_CA expects {PREFIX}GRPC_CERTIFICATE and {PREFIX}GRPC_KEY beside it")
        if self.grpc_certificate and self.grpc_key:
            try:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self.grpc_certificate, self.grpc_key, "")
                context.load_verify_locations(self.grpc_client_ca or self.grpc_certificate)
            except OSError as error:
                raise ValueError(
                    f"expected a certificate chain, its key and CA certificates, in PEM, in the files of "
                    f"{PREFIX}GRPC_CERTIFICATE, _KEY and _CLIENT_CA: {error}"
                ) from None
        return self

    def hmac_key(self) -> bytes:
        """Read the secret that values in Redis are signed with; empty without one.

        Raises:
            ValueError: two secrets, one that is too short, or a file that cannot be read.
        """
        key = self.cache_hmac_key.get_secret_value().strip() if self.cache_hmac_key else ""
        if self.cache_hmac_key_file is not None:
            name = f"{PREFIX}CACHE_HMAC_KEY_FILE"
            if key:
                raise ValueError(f"expected one of {PREFIX}CACHE_HMAC_KEY and {name}; received both")
            key = _text(self.cache_hmac_key_file, name).strip()
        if len(key) < _HMAC_KEY_CHARACTERS and (key or self.cache_hmac_key_file is not None):
            raise ValueError(
                f"expected a {PREFIX}CACHE_HMAC_KEY of at least {_HMAC_KEY_CHARACTERS} characters; received {len(key)}"
            )
        # Bytes of the environment that are no text are as good.
        return key.encode(errors="surrogateescape")

    def key_records(self) -> list[KeyRecord]:
        """Read the API keys of both settings, with the limits that hold where a key has none of its own.

        Raises:
            ValueError: a key in another form, or a file that cannot be read.
        """
        # A Kubernetes Secret made from a file has the file's lines.
        lines = [key for line in self.api_keys.splitlines() for key in line.split(";")]
        if self.api_keys_file is not None:
            lines += _text(self.api_keys_file, f"{PREFIX}API_KEYS_FILE").splitlines()
        records = read_keys(lines)
        several = len({record.name for record in records}) > 1
        defaults = KeyLimits(
            self.key_images_in_flight or (max(1, self.max_images_in_flight // 2) if several else None),
            max(1, self.max_body_bytes_in_flight // 2) if several else None,
            self.key_requests_per_minute,
            self.key_images_per_minute,
            self.cache_private,
        )
        return with_defaults(records, defaults)


def _text(path: Path, setting: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{setting} cannot be read: {type(error).__name__}") from None


class SettingsError(Exception):
    """The environment has invalid settings; the message names what is wrong with each variable."""


def read_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: a missing, wrong or unknown variable; a misspelt one would otherwise be ignored silently.
    """
    known = {PREFIX + name.upper() for name in (*Settings.model_fields, "url")}  # a shell may have that of the client
    faults = [
        f"{name}: no such setting{_nearest(name, known)}"
        for name in os.environ
        if name.startswith(PREFIX) and name not in known and name not in REMOVED
    ]
    faults += trace_faults()
    try:
        settings = Settings()
    except ValidationError as error:
        faults += [
            _fault(e["loc"], e["msg"])
            for e in error.errors(include_input=False)
            # A default that follows from other settings cannot be computed when one of them is wrong.
            if e["type"] != "default_factory_not_called"
        ]
    if faults:
        raise SettingsError("\n".join(faults))
    return settings


def _fault(where: tuple[int | str, ...], message: str) -> str:
    # A message about several variables names them itself.
    told = message.removeprefix("Value error, ")
    return f"{PREFIX}{str(where[0]).upper()}: {told}" if where else told


def _nearest(name: str, known: set[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
