"""What is found on disk: versions, models, manifests; and sockets that are in the way."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from modelserver.config.addresses import LONGEST_SOCKET_PATH, clear_stale_socket
from modelserver.config.manifest import max_batch_size
from modelserver.errors import CannotListen, NothingToServe
from modelserver.models.model_config import MissingBasePath, find_versions, models_of


def test_versions_are_directories_with_numbers(tmp_path: Path) -> None:
    """No files, no signs, no other digits, no number beyond 64 bits."""
    for name in ("3", "0012", ".tmp-4", "v5", "-6", "٣", str(2**63)):
        (tmp_path / name).mkdir()
    (tmp_path / "7").touch()

    assert {3: tmp_path / "3", 12: tmp_path / "0012"} == find_versions(tmp_path)


def test_of_two_names_for_one_number_one_is_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And the log names both."""
    for name in ("1", "01"):
        (tmp_path / name).mkdir()

    assert {1: tmp_path / "01"} == find_versions(tmp_path)
    assert f"{tmp_path / '01'} and {tmp_path / '1'} are the same version" in caplog.text


def test_a_model_is_a_directory_with_a_version(tmp_path: Path) -> None:
    """Hidden ones and empty ones are none."""
    for name in ("a/1", "b/2", ".hidden/1", "empty", "notes/x"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models.config").touch()

    assert ["a", "b"] == [config.name for config in models_of(tmp_path)]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """The directory, and how to fill it."""
    with pytest.raises(MissingBasePath, match="nowhere: No such file or directory"):
        find_versions(tmp_path / "nowhere")
    with pytest.raises(NothingToServe, match="microtome export RECIPE --out"):
        models_of(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ('{"max_batch_size": 8}', 8),
        ("{}", None),
        ("[]", None),
        ("{", None),
        ('{"max_batch_size": "8"}', None),
        (None, None),
    ],
)
def test_the_manifest_may_bound_the_batch(tmp_path: Path, text: str | None, size: int | None) -> None:
    """A damaged one does not keep a version from being served."""
    (tmp_path / "assets.extra").mkdir()
    if text is not None:
        (tmp_path / "assets.extra" / "manifest.json").write_text(text)

    assert size == max_batch_size(tmp_path)


def test_only_a_dead_socket_is_removed(tmp_path: Path) -> None:
    """Not a file, not one that is answered; and a path too long is said to be so."""
    (tmp_path / "file").touch()
    with pytest.raises(CannotListen, match="is no socket"):
        clear_stale_socket(tmp_path / "file")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(CannotListen, match="Another server listens"):
            clear_stale_socket(tmp_path / "s")
    clear_stale_socket(tmp_path / "s")
    assert not (tmp_path / "s").exists()

    with pytest.raises(CannotListen, match=f"longer than the {LONGEST_SOCKET_PATH} bytes"):
        clear_stale_socket(tmp_path / ("x" * 120))
