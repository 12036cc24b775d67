"""Whom `microtome up` serves when it is not told."""

import pytest

from microtome.commands.cli import main
from microtome.commands.up.plan import ADMISSION, admission


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing about it."""
    for name in ADMISSION:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_this_machine_is_served_without_ceremony(host: str) -> None:
    """Where only this machine can connect, no key is asked for."""
    assert {"MICROTOME_ALLOW_ANONYMOUS": "true"} == admission(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_others_are_served_only_when_that_is_said(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Elsewhere nothing starts before there are keys, or the word that none are wanted."""
    assert main(["up", f"--host={host}", "--port=0"]) == 2
    assert "MICROTOME_ALLOW_ANONYMOUS=true" in capsys.readouterr().err
    monkeypatch.setenv("MICROTOME_ALLOW_ANONYMOUS", "true")
    assert {} == admission(host)


def test_keys_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """With keys nothing is added, here or elsewhere."""
    monkeypatch.setenv("MICROTOME_API_KEYS", "a sha256:" + "0" * 64)
    assert {} == admission("0.0.0.0") == admission("127.0.0.1")
