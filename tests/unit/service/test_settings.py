"""Settings come from the environment, and a wrong one is named."""

import pytest

from service.settings import PREFIX, Settings, SettingsError, read_settings

NEEDED = {"MICROTOME_MODEL_SERVER": "localhost:8500", "MICROTOME_MODELS": "a, b"}


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


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MICROTOME_PORT", "none", "MICROTOME_PORT: .*integer"),
        ("MICROTOME_MODELS", " , ", "MICROTOME_MODELS: "),
        ("MICROTOME_REDIS_URL", "localhost:6379", "MICROTOME_REDIS_URL: .*redis://"),
        ("MICROTOME_REDIS_ULR", "redis://x", "MICROTOME_REDIS_ULR: no such setting; did you mean MICROTOME_REDIS_URL"),
        ("MICROTOME_DEADLINE", "-1", "MICROTOME_DEADLINE: "),
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
