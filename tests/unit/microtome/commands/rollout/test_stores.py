"""The configuration's file is replaced whole, and never over another's change."""

from pathlib import Path

import pytest

from microtome.commands.rollout.configuration import FileStore
from microtome.commands.rollout.errors import CannotBegin, RolloutError


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    """A new file takes the old one's place, readable by whom the old one was; nothing else is left behind."""
    path = tmp_path / "models.config"
    path.write_text("old")
    path.chmod(0o640)
    store = FileStore(path)
    assert store.read() == "old"
    with path.open() as reader:
        store.write("new")
        assert reader.read() == "old"
    store.write("newer")
    assert path.read_text() == "newer"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [path] == list(tmp_path.iterdir())


def test_another_programs_change_is_not_overwritten(tmp_path: Path) -> None:
    """What was not there when the file was read stays."""
    path = tmp_path / "models.config"
    path.write_text("old")
    store = FileStore(path)
    store.read()
    path.write_text("theirs")
    with pytest.raises(RolloutError, match="changed by another program"):
        store.write("ours")
    assert path.read_text() == "theirs"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Before anything is done."""
    with pytest.raises(CannotBegin, match="nowhere"):
        FileStore(tmp_path / "nowhere").read()
