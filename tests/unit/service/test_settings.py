"""Settings come from the environment, and a wrong one is named."""

from pathlib import Path

import pytest

from service.__main__ import removed_settings, risks
from service.auth import KeyLimits
from service.settings import PREFIX, Settings, SettingsError, read_settings
from tests.certificates import make_certificates

NEEDED = {
    "MICROTOME_MODEL_SERVER": "localhost:8500",
    "MICROTOME_MODELS": "a, b",
    "MICROTOME_ALLOW_ANONYMOUS": "true",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with what is needed and no other setting."""
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)


def test_names_are_split_and_defaults_hold() -> None:
    """Models are separated by commas; what is not set has its default."""
    settings = read_settings()
    assert (("a", "b"), 8000, None) == (settings.models, settings.port, settings.redis_url)


@pytest.mark.parametrize(("required", "models"), [("b", "a,b"), ("lite4", "a,lite*")])
def test_a_required_model_is_served(monkeypatch: pytest.MonkeyPatch, required: str, models: str) -> None:
    """By its name, or by a pattern that it matches."""
    monkeypatch.setenv("MICROTOME_MODELS", models)
    monkeypatch.setenv("MICROTOME_REQUIRED_MODELS", required)
    assert read_settings().required_models == (required,)
    monkeypatch.setenv("MICROTOME_REQUIRED_MODELS", "other")
    with pytest.raises(
        SettingsError, match="MICROTOME_REQUIRED_MODELS names other; expected names that MICROTOME_MODELS"
    ):
        read_settings()


def test_accepted_deviations_are_read_by_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several models, or all of them."""
    monkeypatch.setenv("MICROTOME_ACCEPT_DEVIATION", "a=0.01, *=1e-3")
    assert read_settings().accept_deviation == {"a": 0.01, "*": 0.001}


def test_prefix_and_origins_are_read_as_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix without a slash at its end; origins by their schemes, hosts and ports."""
    assert ("", ()) == (read_settings().path_prefix, read_settings().cors_origins)
    monkeypatch.setenv("MICROTOME_PATH_PREFIX", "/api/v1/")
    monkeypatch.setenv("MICROTOME_CORS_ORIGINS", "https://a.example, http://[::1]:8080,*")
    assert "/api/v1" == read_settings().path_prefix
    assert ("https://a.example", "http://[::1]:8080", "*") == read_settings().cors_origins


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MICROTOME_PORT", "none", "MICROTOME_PORT: .*integer"),
        ("MICROTOME_MODELS", " , ", "MICROTOME_MODELS: "),
        ("MICROTOME_REDIS_URL", "localhost:6379", "MICROTOME_REDIS_URL: .*redis://"),
        ("MICROTOME_REDIS_URL", "redis://:s/3cret@x", "MICROTOME_REDIS_URL: .*%XX"),
        (
            "MICROTOME_REDIS_URL",
            "redis://x/?ssl_cert_reqs=none",
            "MICROTOME_REDIS_URL: .*ssl_cert_reqs only with rediss",
        ),
        ("MICROTOME_CACHE_HMAC_KEY", "s3cret", "MICROTOME_CACHE_HMAC_KEY of at least 16 characters; received 6"),
        ("MICROTOME_CACHE_HMAC_KEY_FILE", "/nowhere", "MICROTOME_CACHE_HMAC_KEY_FILE cannot be read: FileNotFound"),
        ("MICROTOME_CACHE_HMAC_KEY_FILE", "/dev/null", "at least 16 characters; received 0"),
        ("MICROTOME_REDIS_ULR", "redis://x", "MICROTOME_REDIS_ULR: no such setting; did you mean MICROTOME_REDIS_URL"),
        ("MICROTOME_DEADLINE", "-1", "MICROTOME_DEADLINE: "),
        ("MICROTOME_DEADLINE", "inf", "MICROTOME_DEADLINE: .*finite"),
        ("MICROTOME_REDIS_TTL", "nan", "MICROTOME_REDIS_TTL: .*finite"),
        ("MICROTOME_HOST", "http://0.0.0.0", "MICROTOME_HOST: expected an address such as 0.0.0.0"),
        (
            "MICROTOME_MODEL_SERVER",
            "a:8500,http://b:8500",
            "MICROTOME_MODEL_SERVER: expected host:port.*'http://b:8500'",
        ),
        ("MICROTOME_MODEL_SERVER", "model-server", "MICROTOME_MODEL_SERVER: expected host:port"),
        ("MICROTOME_URL_HOSTS", "https://a.example", "MICROTOME_URL_HOSTS: expected hosts .*'https://a.example'"),
        ("MICROTOME_GRPC_PORT", "8000", "expected MICROTOME_PORT and MICROTOME_GRPC_PORT to differ"),
        ("MICROTOME_CACHE_BYTES", "64MB", "MICROTOME_CACHE_BYTES: .*integer"),
        ("MICROTOME_ALLOW_ANONYMOUS", "perhaps", "MICROTOME_ALLOW_ANONYMOUS: .*boolean"),
        ("MICROTOME_LOG_FORMAT", "xml", "MICROTOME_LOG_FORMAT: .*'console' or 'json'"),
        ("MICROTOME_FORMATS", "jpeg,heic", "MICROTOME_FORMATS: .*'heic'; expected some of avif, bmp"),
        ("MICROTOME_FORMATS", ",", "MICROTOME_FORMATS: "),
        ("MICROTOME_DECODE_BYTES", "1000", "MICROTOME_DECODE_BYTES: "),
        ("MICROTOME_ACCEPT_DEVIATION", "0.01", "MICROTOME_ACCEPT_DEVIATION: .*expected MODEL=NUMBER .*'0.01'"),
        ("MICROTOME_ACCEPT_DEVIATION", "a=0.1,b=2", "MICROTOME_ACCEPT_DEVIATION: .*expected MODEL=NUMBER .*'b=2'"),
        ("MICROTOME_PATH_PREFIX", "api", "MICROTOME_PATH_PREFIX: .*expected a path such as /api/images.*'api'"),
        ("MICROTOME_PATH_PREFIX", "/a//b", "MICROTOME_PATH_PREFIX: .*expected a path"),
        ("MICROTOME_PATH_PREFIX", "/a/../b", "MICROTOME_PATH_PREFIX: .*expected a path"),
        ("MICROTOME_PATH_PREFIX", "/v1/images", "MICROTOME_PATH_PREFIX: .*does not begin with /v1"),
        ("MICROTOME_CORS_ORIGINS", "shop.example.com", "MICROTOME_CORS_ORIGINS: .*https://shop.example.com"),
        ("MICROTOME_CORS_ORIGINS", "https://a.example/, *", "MICROTOME_CORS_ORIGINS: .*'https://a.example/'"),
        ("MICROTOME_ACCEPT_DEVIATION", "a=nan", "MICROTOME_ACCEPT_DEVIATION: .*expected MODEL=NUMBER .*'a=nan'"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    """The error names the variable and what was expected; a misspelt one is not ignored."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=words) as told:
        read_settings()
    assert "3cret" not in str(told.value)
    assert 1 == len(str(told.value).splitlines())


def test_an_address_of_redis_may_end_in_a_newline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a Secret made from a file; an empty one is none."""
    monkeypatch.setenv("MICROTOME_REDIS_URL", "redis://:x@one\n")
    assert "redis://:x@one" == read_settings().redis_url
    monkeypatch.setenv("MICROTOME_REDIS_URL", "")
    assert read_settings().redis_url is None


def test_the_key_for_values_comes_from_one_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable or a file, without its end of line; both are an error, none is no key; it is never shown."""
    assert b"" == read_settings().hmac_key()
    (tmp_path / "key").write_text("s3cret-of-these-gateways\n")
    monkeypatch.setenv("MICROTOME_CACHE_HMAC_KEY_FILE", str(tmp_path / "key"))
    assert b"s3cret-of-these-gateways" == read_settings().hmac_key()
    monkeypatch.setenv("MICROTOME_CACHE_HMAC_KEY", "")
    assert b"s3cret-of-these-gateways" == read_settings().hmac_key()
    monkeypatch.setenv("MICROTOME_CACHE_HMAC_KEY", "s3cret-of-these-gateways")
    with pytest.raises(SettingsError, match="expected one of MICROTOME_CACHE_HMAC_KEY and") as told:
        read_settings()
    monkeypatch.delenv("MICROTOME_CACHE_HMAC_KEY_FILE")
    settings = read_settings()
    assert b"s3cret-of-these-gateways" == settings.hmac_key()
    assert "s3cret" not in repr(settings) + str(told.value)


def test_all_faults_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two wrong settings are one error of two lines."""
    monkeypatch.setenv("MICROTOME_PORT", "0")
    monkeypatch.delenv("MICROTOME_MODELS")
    with pytest.raises(SettingsError) as error:
        read_settings()
    assert {"MICROTOME_PORT", "MICROTOME_MODELS"} == {line.split(":")[0] for line in str(error.value).splitlines()}


def test_decoding_follows_the_machine_and_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads by the cores that the process may use, memory by its limit, both divided by the workers."""
    monkeypatch.setattr("service.settings.cores", lambda: 6)
    monkeypatch.setattr("service.settings.memory", lambda: 1536 << 20)
    settings = read_settings()
    assert (6, int(0.6 * (1536 << 20))) == (settings.decode_threads, settings.decode_bytes)
    assert ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif") == settings.formats
    monkeypatch.setenv("MICROTOME_WORKERS", "4")
    monkeypatch.setenv("MICROTOME_FORMATS", "PNG, jp2,jpeg2000")
    settings = read_settings()
    assert (2, int(0.15 * (1536 << 20))) == (settings.decode_threads, settings.decode_bytes)
    assert ("png", "jpeg2000") == settings.formats


KEY = "a sha256:" + "0" * 64


def test_whom_to_serve_has_to_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither keys nor their explicit absence is an error, and so are both."""
    monkeypatch.delenv("MICROTOME_ALLOW_ANONYMOUS")
    with pytest.raises(SettingsError, match="MICROTOME_ALLOW_ANONYMOUS=true"):
        read_settings()
    monkeypatch.setenv("MICROTOME_API_KEYS", KEY)
    assert ["a"] == [record.name for record in read_settings().key_records()]
    monkeypatch.setenv("MICROTOME_ALLOW_ANONYMOUS", "true")
    with pytest.raises(SettingsError, match="one of the two"):
        read_settings()


def test_keys_come_from_both_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment's keys and the file's are one keyring; a file that is not there is named."""
    monkeypatch.delenv("MICROTOME_ALLOW_ANONYMOUS")
    monkeypatch.setenv("MICROTOME_API_KEYS", f"{KEY} images=2; b sha256:{'1' * 64}")
    monkeypatch.setenv("MICROTOME_API_KEYS_FILE", str(tmp_path / "keys"))
    with pytest.raises(SettingsError, match="MICROTOME_API_KEYS_FILE cannot be read: FileNotFoundError"):
        read_settings()
    (tmp_path / "keys").write_text(f"# search\nc sha256:{'2' * 64}  # new\n\n")
    found = [(key.name, key.limits.images) for key in read_settings().key_records()]
    assert [("a", 2), ("b", 128), ("c", 128)] == found


def test_keys_are_read_as_a_secret_made_from_a_file_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """One a line, with comments and an end of the last line, in the variable too."""
    monkeypatch.delenv("MICROTOME_ALLOW_ANONYMOUS")
    monkeypatch.setenv("MICROTOME_API_KEYS", f"# whose\n{KEY} images=2  # the search team's\n\nb sha256:{'1' * 64}\n")
    assert [("a", 2), ("b", 128)] == [(key.name, key.limits.images) for key in read_settings().key_records()]


def test_no_owner_of_a_key_holds_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the images and bytes in flight, or what is set, where there are several owners; one has all."""
    monkeypatch.delenv("MICROTOME_ALLOW_ANONYMOUS")
    monkeypatch.setenv("MICROTOME_API_KEYS", f"{KEY}; a sha256:{'1' * 64}")
    assert [KeyLimits()] * 2 == [key.limits for key in read_settings().key_records()]
    monkeypatch.setenv("MICROTOME_API_KEYS", f"{KEY} bytes=1000; b sha256:{'1' * 64}")
    half = read_settings().max_body_bytes_in_flight // 2
    assert [KeyLimits(128, 1000), KeyLimits(128, half)] == [key.limits for key in read_settings().key_records()]
    given = {"KEY_IMAGES_IN_FLIGHT": "9", "KEY_REQUESTS_PER_MINUTE": "8", "KEY_IMAGES_PER_MINUTE": "7"}
    for name, value in {**given, "CACHE_PRIVATE": "true"}.items():
        monkeypatch.setenv(PREFIX + name, value)
    assert KeyLimits(9, half, 8, 7, private=True) == read_settings().key_records()[1].limits


@pytest.mark.parametrize(
    "name", ["KEY_IMAGES_IN_FLIGHT", "KEY_REQUESTS_PER_MINUTE", "KEY_IMAGES_PER_MINUTE", "CACHE_PRIVATE"]
)
def test_limits_of_keys_need_keys(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without keys they would hold for none, and an operator would rely on them."""
    monkeypatch.setenv(PREFIX + name, "1")
    with pytest.raises(SettingsError, match=f"MICROTOME_{name} is about owners of API keys, and there are none"):
        read_settings()


def test_a_key_in_clear_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who puts the key itself where its hash belongs does not find it in a log."""
    monkeypatch.delenv("MICROTOME_ALLOW_ANONYMOUS")
    monkeypatch.setenv("MICROTOME_API_KEYS", "a sha256:hunter2hunter2")
    with pytest.raises(SettingsError) as error:
        read_settings()
    assert "NAME sha256:HASH" in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["GRPC_CERTIFICATE"], "GRPC_CERTIFICATE and MICROTOME_GRPC_KEY together"),
        (["GRPC_KEY"], "GRPC_CERTIFICATE and MICROTOME_GRPC_KEY together"),
        (["GRPC_CLIENT_CA"], "GRPC_CLIENT_CA expects MICROTOME_GRPC_CERTIFICATE"),
    ],
)
def test_half_an_encryption_is_none(monkeypatch: pytest.MonkeyPatch, given: list[str], words: str) -> None:
    """Who names one file of it means all; serving in the clear would be a surprise."""
    for name in given:
        monkeypatch.setenv(PREFIX + name, "file.pem")
    with pytest.raises(SettingsError, match=words):
        read_settings()


def test_a_removed_setting_is_ignored_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each; the others are read as ever."""
    assert [] == removed_settings()
    monkeypatch.setenv("MICROTOME_BODY_PAUSE", "3")
    assert 8000 == read_settings().port
    assert ["MICROTOME_BODY_PAUSE is no longer a setting and is ignored; it is always 10 s"] == removed_settings()


def test_keys_in_clear_are_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only where there are keys, gRPC and no certificate; one that cannot be used ends the start."""
    monkeypatch.setenv("MICROTOME_GRPC_PORT", "8001")
    assert [] == risks(read_settings())
    monkeypatch.delenv("MICROTOME_ALLOW_ANONYMOUS")
    monkeypatch.setenv("MICROTOME_API_KEYS", f"shop sha256:{'0' * 64}")
    (line,) = risks(read_settings())
    assert "in clear over gRPC" in line
    for name in ("GRPC_CERTIFICATE", "GRPC_KEY"):
        monkeypatch.setenv(PREFIX + name, "/nowhere")
    with pytest.raises(SettingsError, match="No such file"):
        read_settings()
    make_certificates(tmp_path)
    monkeypatch.setenv("MICROTOME_GRPC_CERTIFICATE", str(tmp_path / "server.pem"))
    monkeypatch.setenv("MICROTOME_GRPC_KEY", str(tmp_path / "client.key"))
    with pytest.raises(SettingsError, match=r"expected a certificate chain, its key .*MISMATCH"):
        read_settings()
    monkeypatch.setenv("MICROTOME_GRPC_KEY", str(tmp_path / "server.key"))
    assert [] == risks(read_settings())
    monkeypatch.setenv("MICROTOME_GRPC_CLIENT_CA", __file__)
    with pytest.raises(SettingsError, match="expected a certificate chain, its key and CA certificates"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "OTEL_EXPORTER_OTLP_ENDPOINT: expected an address"),
        ("OTEL_BSP_SCHEDULE_DELAY", "5s", "OTEL_BSP_SCHEDULE_DELAY: expected a whole number; received '5s'"),
    ],
)
def test_a_wrong_variable_of_opentelemetry_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    """Its SDK would lose all traces, or go on after a traceback; where no traces are wanted, none is looked at."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "5 s")
    assert read_settings().port
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "5000")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    assert read_settings().port
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=words):
        read_settings()
