"""The journal of `microtome embed`: wherever it is torn, what came before is there, and it goes on from there."""

import os
import resource
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import ormsgpack
import pytest

from microtome.client.results import ModelVersion
from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.journal import Journal, Row
from microtome.commands.embed.runner import write

HEAD = {"format": 1, "model": "lite0", "output": ["top"]}
ROWS = [
    Row("a.jpg", {"top": b"\0" * 40}),
    Row("b\udcff.jpg", {}, ("not-an-image", "no image")),
    Row("c.jpg", {"top": b"\1" * 40}),
]


def record(body: bytes) -> bytes:
    """Frame a record as a journal does."""
    return struct.pack("<II", len(body), zlib.crc32(body)) + body


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal with three results is."""
    path = tmp_path / "out.npy.journal"
    with Journal(path) as journal:
        journal.begin(HEAD)
        journal.answered_by(ModelVersion("lite0", 1, "sha256:aa"))
        for row in ROWS:
            assert journal.claim(row.key)
            journal.put(row)
    return path


def test_everything_is_there_when_it_is_opened_again(path: Path) -> None:
    """What the run is about, who answered, every result, and which images are done."""
    with Journal(path) as journal:
        assert (HEAD, {"name": "lite0", "version": 1, "fingerprint": "sha256:aa"}) == (journal.head, journal.model)
        assert (2, 1) == (journal.embedded, journal.failed)
        assert list(journal.rows()) == ROWS
        assert [False, False, False, True, False] == [journal.claim(k) for k in (*(r.key for r in ROWS), "d", "d")]


def test_a_journal_torn_anywhere_goes_on_from_its_last_whole_record(path: Path) -> None:
    """Every length that a crash could leave is tried; the rest is appended, and nothing is lost or doubled."""
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with Journal(path) as journal:
            journal.begin(HEAD)
            kept = list(journal.rows())
            assert kept == ROWS[: len(kept)]
            for row in ROWS:
                if journal.claim(row.key):
                    journal.put(row)
            assert list(journal.rows()) == ROWS


def test_a_flipped_bit_ends_what_is_believed(path: Path) -> None:
    """A disk that lies is found out by the checksum."""
    whole = bytearray(path.read_bytes())
    whole[-60] ^= 1
    path.write_bytes(whole)
    with Journal(path) as journal:
        assert list(journal.rows()) == ROWS[:2]


@pytest.mark.parametrize(
    "tail",
    [
        bytes(100_000),
        bytes(8),
        b"\xff" * 5000,
        b"\x05\0\0\0garbage after a length",
        record(b"no MessagePack \xc1"),
        record(ormsgpack.packb([1, 2])),
        record(ormsgpack.packb({"key": b"d.jpg"})),
    ],
    ids=["zeros", "one frame of zeros", "ones", "garbage", "another record", "a list", "half a result"],
)
def test_what_a_power_loss_leaves_at_the_end_is_cut_off(path: Path, tail: bytes) -> None:
    """The run goes on with what is whole, in a file that was shorter than its length says or holds old blocks."""
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    with Journal(path) as journal:
        assert (list(journal.rows()), len(tail)) == (ROWS, journal.lost)
        journal.put(Row("d.jpg", {"top": b"\2" * 40}))
    with Journal(path) as journal:
        assert (4, 0) == (len(list(journal.rows())), journal.lost)


def test_a_hole_in_the_middle_ends_what_is_believed(path: Path) -> None:
    """What follows is embedded again: where its records begin is not known."""
    whole = path.read_bytes()
    for hole in (bytes(60), b""):
        path.write_bytes(whole[:-130] + hole + whole[-70:])
        with Journal(path) as journal:
            assert ROWS[: journal.embedded + journal.failed] == list(journal.rows())
            assert journal.lost > 0


def test_a_record_that_has_no_room_is_an_error_and_the_others_stay(path: Path) -> None:
    """A real limit on the file's size, in the middle of a record; with room again the run goes on."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 30, before[1]))
    try:
        with Journal(path) as journal, pytest.raises(EmbedError, match=r"journal cannot be written: .*make room"):
            journal.put(Row("d.jpg", {"top": b"\2" * 40}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with Journal(path) as journal:
        assert (ROWS, 30) == (list(journal.rows()), journal.lost)


def test_a_journal_of_another_release_is_left_alone(path: Path) -> None:
    """Its head says so; --restart forgets it."""
    path.write_bytes(record(ormsgpack.packb({"head": {"format": 2, "models": ["lite0"]}})))
    with pytest.raises(EmbedError, match="expected format 1, received 2"):
        Journal(path)
    with Journal(path, restart=True) as journal:
        assert ({}, []) == (journal.head, list(journal.rows()))


def test_a_run_without_results_leaves_no_journal(tmp_path: Path) -> None:
    """Such as one that asks for an output which does not exist: its options bind no other run."""
    with Journal(tmp_path / "j") as journal:
        journal.begin(HEAD)
    assert not (tmp_path / "j").exists()


def test_another_model_version_is_not_kept(path: Path) -> None:
    """The same number, but other weights: the vectors would not compare."""
    with Journal(path) as journal:
        journal.answered_by(ModelVersion("lite0", 1, "sha256:aa"))
        with pytest.raises(EmbedError, match="They do not compare"):
            journal.answered_by(ModelVersion("lite0", 1, "sha256:bb"))


def test_both_towers_of_one_space_are_kept(path: Path) -> None:
    """A run of images and texts; a tower of another space is another model."""
    image, text = (ModelVersion("clip", 3, f"sha256:{tower}", tower, "sha256:ab") for tower in ("image", "text"))
    with Journal(path, restart=True) as journal:
        journal.begin(HEAD)
        for model in (image, text, image, text):
            journal.answered_by(model)
        with pytest.raises(EmbedError, match="They do not compare"):
            journal.answered_by(ModelVersion("clip", 4, "sha256:text4", "text", "sha256:cd"))
        journal.put(ROWS[0])
    with Journal(path) as journal:
        assert journal.model is not None
        assert ("image", "text", "sha256:ab") == (
            journal.model["tower"],
            journal.model["also"]["tower"],
            journal.model["space"],
        )


def test_other_options_are_another_run(path: Path) -> None:
    """The message says what differs."""
    with Journal(path) as journal, pytest.raises(EmbedError, match=r"model was 'lite0', is 'lite1'"):
        journal.begin({**HEAD, "model": "lite1"})


@pytest.mark.parametrize("size", [12, 200_000])
@pytest.mark.parametrize("restart", [False, True])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, size: int, restart: bool) -> None:
    """Nothing of it is cut off."""
    path = tmp_path / "holiday.mp4"
    path.write_bytes(b"film" * (size // 4))
    with pytest.raises(EmbedError, match="no journal"):
        Journal(path, restart=restart)
    assert size == path.stat().st_size


def test_files_that_are_not_utf8_have_a_place(tmp_path: Path) -> None:
    """Their names go through the journal unchanged."""
    with Journal(tmp_path / "j") as journal:
        journal.begin(HEAD)
        journal.put(Row("\udc80.jpg", {"top": b""}))
        rows: Iterator[Row] = journal.rows()
        assert "\udc80.jpg" == next(rows).key


def test_the_result_is_on_the_disk_before_the_journal_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power loss in between must find one of them: files, then their names are synced, and then it is removed."""
    out, done = tmp_path / "out.npy", list[str]()
    unlink, replace = Path.unlink, Path.replace

    def removed(path: Path, *, missing_ok: bool = False) -> None:
        done.append(f"remove {path.name}")
        unlink(path, missing_ok=missing_ok)

    def renamed(path: Path, target: Path) -> Path:
        done.append(f"name {target.name}")
        return replace(path, target)

    def synced(file: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{file}').readlink().name}")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "unlink", removed)
    monkeypatch.setattr(Path, "replace", renamed)
    with Journal(tmp_path / "out.npy.journal") as journal:
        journal.begin({**HEAD, "dtype": "float32"})
        assert done == ["sync out.npy.journal", f"sync {tmp_path.name}"]
        journal.put(ROWS[0])
        done.clear()
        write(journal, out)
    files = ("out.npy.keys.jsonl", "out.npy", "out.npy.errors.jsonl", "out.npy.about.json")
    steps = [step for name in files for step in (f"sync .{name}.unfinished", f"name {name}")]
    assert [step for step in done if "remove out.npy.errors" not in step] == [
        *steps, f"sync {tmp_path.name}", "remove out.npy.journal", "sync out.npy.journal (deleted)"
    ]  # fmt: skip
