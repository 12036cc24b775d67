"""Where Redis or Valkey is, written as an address: one server, the master that Sentinel names, or a cluster's nodes.

What is wrong with an address is told without any part of it, since a password with a character that is not escaped can
stand anywhere: as a port, a path, or the name of an option. Only the name of an option is told, where it can be none.
"""

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote, unquote_plus

SCHEMES = (
    *("redis", "rediss", "unix"),
    *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
)

Kind = Literal["single", "sentinel", "cluster"]
Options = Mapping[str, Any]

_PORTS = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_NODE = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s:/@\[\]%]+))(?::(?P<port>\d{1,5}))?")
_ESCAPES = "a password's special characters as %XX, the percent sign itself as %25"


@dataclass(frozen=True, slots=True)
class Place:
    """An address, taken apart. Its representation holds no password.

    Attributes:
        nodes: host and port of the server, of each Sentinel, or of each node; empty for a Unix socket.
        path: of a Unix socket.
        service: the name under which Sentinel knows the master.
        database: its number; 0 in a cluster.
        options: redis-py's arguments for connections to the servers: user, password, TLS.
        sentinel_options: those for connections to the Sentinels.
    """

    kind: Kind
    nodes: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    database: int = 0
    tls: bool = False
    options: Options = field(default_factory=dict, repr=False)
    sentinel_options: Options = field(default_factory=dict, repr=False)


def place(url: str) -> Place:
    """Take an address apart.

    Args:
        url: `redis://[user:password@]host[:port][/database]`, or with `+sentinel` several hosts separated by commas
            and `/service[/database]`, or with `+cluster` several hosts and no path; `rediss` for TLS;
            `unix://[user:password@]/path`. Options follow `?`, see `_OPTIONS`.

    Raises:
        ValueError: it is none of these; the message is one sentence with no part of a password in it.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        raise ValueError(f"expected an address that begins with one of {', '.join(f'{each}://' for each in SCHEMES)}")
    plain, _, extra = scheme.lower().partition("+")
    kind: Kind = "sentinel" if extra == "sentinel" else "cluster" if extra == "cluster" else "single"
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    if re.search(r"[\x00-\x20\x7f#]", url) or "@" in path + query:
        raise ValueError(f"expected an address without spaces, # and further @; write {_ESCAPES}")
    user, colon, password = login.partition(":")
    if at and not colon:
        raise ValueError("expected USER:PASSWORD or :PASSWORD before the @, a colon included")
    if plain == "unix" and (hosts or not path):
        raise ValueError("expected unix:///PATH, with an absolute path")
    many = () if plain == "unix" else hosts.split(",") if kind != "single" else (hosts,)
    nodes = tuple(_node(host, _PORTS[kind]) for host in many)
    login_options = (("username", _text(user)), ("password", _text(password)))
    options: dict[str, Any] = {name: value for name, value in login_options if value}
    options |= _options(query, kind, tls=plain == "rediss")
    sentinels = {name: options.pop(name) for name in list(options) if name.startswith("sentinel_")}
    sentinels = {name.removeprefix("sentinel_"): value for name, value in sentinels.items()}
    shared = {name: value for name, value in options.items() if name.startswith(("ssl", "socket"))}
    database: int | None = options.pop("db", None)
    found: dict[str, Any] = {"options": options, "sentinel_options": sentinels | shared}
    if plain == "unix":
        return Place("single", path=f"/{_text(path)}", database=database or 0, **found)
    service, number = _named(kind, path.strip("/"), database)
    return Place(kind, nodes, "", service, number, plain == "rediss", **found)


def _node(host: str, port: int) -> tuple[str, int]:
    found = _NODE.fullmatch(host)
    # A comma in one host: several hosts need another scheme.
    if found is None or "," in host or not 1 <= int(found["port"] or port) <= 65535:
        raise ValueError(
            "expected HOST or HOST:PORT with a port from 1 to 65535, several of them only with +sentinel or +cluster, "
            f"and {_ESCAPES}"
        )
    return (found["ipv6"] or found["name"], int(found["port"] or port))


def _named(kind: Kind, path: str, database: int | None) -> tuple[str, int]:
    """Return the service's name and the database, of the path and the option `db`."""
    service, _, number = path.partition("/") if kind == "sentinel" else ("", "", path)
    if kind == "cluster" and (path or database):
        raise ValueError("expected redis+cluster:// without a path: a cluster has one database")
    if kind == "sentinel" and not service:
        raise ValueError("expected redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE, SERVICE as Sentinel knows it")
    if number and not re.fullmatch(r"\d{1,6}", number):
        raise ValueError("expected the number of a database after the last / of the address")
    return _text(service), int(number or 0) if database is None else database


def _text(escaped: str, read: Callable[..., str] = unquote) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", escaped):
        raise ValueError(f"expected two hexadecimal digits after each %; write {_ESCAPES}")
    try:
        return read(escaped, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("expected %XX of UTF-8") from None


def _one_of(values: Mapping[str, Any]) -> Callable[[str], Any]:
    return lambda value: values[value.lower()]


def _number(value: str) -> int:
    if not re.fullmatch(r"\d{1,6}", value):
        raise ValueError
    return int(value)


_TRUTH = _one_of({"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False})
_OPTIONS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "username": (str, "text"),
    "password": (str, "text"),
    "db": (_number, "the number of a database"),
    # The only version that is spoken.
    "protocol": (_one_of({"2": 2}), "2"),
    "socket_keepalive": (_TRUTH, "true or false"),
    "sentinel_username": (str, "text"),
    "sentinel_password": (str, "text"),
    "ssl_ca_certs": (str, "a file of certificates in PEM"),
    "ssl_certfile": (str, "a file of a certificate in PEM"),
    "ssl_keyfile": (str, "a file of a key in PEM"),
    "ssl_check_hostname": (_TRUTH, "true or false"),
    "ssl_cert_reqs": (_one_of({each: each for each in ("none", "optional", "required")}), "none, optional or required"),
    "ssl_min_version": (_one_of({"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}), "1.2 or 1.3"),
    "ssl_ciphers": (str, "ciphers as OpenSSL names them"),
}
"""Options by name: how a value is read, and what is expected. Names and meaning are redis-py's."""


def _options(query: str, kind: Kind, *, tls: bool) -> dict[str, Any]:
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    known = [
        name
        for name in _OPTIONS
        if (tls or not name.startswith("ssl_")) and (kind == "sentinel" or not name.startswith("sentinel_"))
    ]
    found: dict[str, Any] = {}
    for name, _, value in pairs:
        if name not in known:
            # With a password among the options, an unknown one may be a part of it.
            secret = any("password" in each for each, _, _ in pairs) or not re.fullmatch("[a-z_]{1,40}", name)
            encrypted = name in _OPTIONS and name.startswith("ssl_")
            where = "only with rediss://" if encrypted else f"among {', '.join(known)}"
            raise ValueError(f"expected {'each option' if secret else f'the option {name}'} {where}")
        read, expected = _OPTIONS[name]
        try:
            found[name] = read(_text(value, unquote_plus))
        except (KeyError, ValueError):
            raise ValueError(f"expected {expected} as the value of the option {name}") from None
    if found.get("ssl_cert_reqs") == "none":
        # OpenSSL refuses to compare names on a certificate that is not checked.
        found.setdefault("ssl_check_hostname", False)
    if tls:
        _check_tls(found)
    found.pop("protocol", None)
    return found


def _check_tls(options: Options) -> None:
    """Read the files and ciphers once, so that what is wrong with them is told at start."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certificate, key = options.get("ssl_certfile"), options.get("ssl_keyfile")
    if key and not certificate:
        raise ValueError("expected the option ssl_certfile beside ssl_keyfile")
    checks: dict[str, Callable[[], object]] = {
        "ssl_ca_certs": lambda: context.load_verify_locations(cafile=options["ssl_ca_certs"]),
        # Without a password OpenSSL would ask the terminal for one.
        "ssl_certfile": lambda: context.load_cert_chain(certificate or "", key, password=""),
        "ssl_ciphers": lambda: context.set_ciphers(options["ssl_ciphers"]),
    }
    for name, check in checks.items():
        try:
            if name in options:
                check()
        except (OSError, ValueError) as error:
            expected = _OPTIONS[name][1]
            raise ValueError(f"expected {expected} as the value of the option {name}: {type(error).__name__}") from None
