"""Settings come from the environment, and a wrong one is named."""

from pathlib import Path

import pytest

from service.settings import PREFIX, Settings, SettingsError, read_settings, removed_settings

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


def test_accepted_deviations_are_read_by_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several models, or all of them."""
    monkeypatch.setenv("MICROTOME_ACCEPT_DEVIATION", "a=0.01, *=1e-3")
    assert read_settings().accept_deviation == {"a": 0.01, "*": 0.001}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MICROTOME_PORT", "none", "MICROTOME_PORT: .*integer"),
        ("MICROTOME_MODELS", " , ", "MICROTOME_MODELS: "),
        ("MICROTOME_REDIS_URL", "localhost:6379", "MICROTOME_REDIS_URL: .*redis://"),
        ("MICROTOME_REDIS_ULR", "redis://x", "MICROTOME_REDIS_ULR: no such setting; did you mean MICROTOME_REDIS_URL"),
        ("MICROTOME_DEADLINE", "-1", "MICROTOME_DEADLINE: "),
        ("MICROTOME_FORMATS", "jpeg,heic", "MICROTOME_FORMATS: .*'heic'; expected some of avif, bmp"),
        ("MICROTOME_FORMATS", ",", "MICROTOME_FORMATS: "),
        ("MICROTOME_DECODE_BYTES", "1000", "MICROTOME_DECODE_BYTES: "),
        ("MICROTOME_ACCEPT_DEVIATION", "0.01", "MICROTOME_ACCEPT_DEVIATION: .*expected MODEL=NUMBER .*'0.01'"),
        ("MICROTOME_ACCEPT_DEVIATION", "a=0.1,b=2", "MICROTOME_ACCEPT_DEVIATION: .*expected MODEL=NUMBER .*'b=2'"),
        ("MICROTOME_ACCEPT_DEVIATION", "a=nan", "MICROTOME_ACCEPT_DEVIATION: .*expected MODEL=NUMBER .*'a=nan'"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    """The error names the variable and what was expected; a misspelt one is not ignored."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=words):
        read_settings()


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
    assert [("a", 2), ("b", None), ("c", None)] == [(key.name, key.images) for key in read_settings().key_records()]


def test_keys_are_read_as_a_secret_made_from_a_file_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """One a line, with comments and an end of the last line, in the variable too."""
    monkeypatch.delenv("MICROTOME_ALLOW_ANONYMOUS")
    monkeypatch.setenv("MICROTOME_API_KEYS", f"# whose\n{KEY} images=2  # the search team's\n\nb sha256:{'1' * 64}\n")
    assert [("a", 2), ("b", None)] == [(key.name, key.images) for key in read_settings().key_records()]


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
