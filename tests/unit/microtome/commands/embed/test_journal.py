"""The journal of `microtome embed`: wherever it is torn, what came before is there, and it goes on from there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.journal import Journal, Row

HEAD = {"format": 1, "model": "lite0", "output": ["top"]}
ROWS = [
    Row("a.jpg", {"top": b"\0" * 40}),
    Row("b\udcff.jpg", {}, ("not-an-image", "no image")),
    Row("c.jpg", {"top": b"\1" * 40}),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal with three results is."""
    path = tmp_path / "out.npy.journal"
    with Journal(path) as journal:
        journal.begin(HEAD)
        journal.answered_by("lite0", 1, "sha256:aa")
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


def test_two_runs_do_not_write_one_journal(path: Path) -> None:
    """The second says so."""
    with Journal(path), pytest.raises(EmbedError, match="Another run"):
        Journal(path)


def test_another_model_version_is_not_kept(path: Path) -> None:
    """The same number, but other weights: the vectors would not compare."""
    with Journal(path) as journal:
        journal.answered_by("lite0", 1, "sha256:aa")
        with pytest.raises(EmbedError, match="They do not compare"):
            journal.answered_by("lite0", 1, "sha256:bb")


def test_other_options_are_another_run(path: Path) -> None:
    """The message says what differs."""
    with Journal(path) as journal, pytest.raises(EmbedError, match=r"model was 'lite0', is 'lite1'"):
        journal.begin({**HEAD, "model": "lite1"})


def test_a_large_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    """Nothing of it is cut off."""
    path = tmp_path / "holiday.mp4"
    path.write_bytes(b"film" * 50_000)
    with pytest.raises(EmbedError, match="no journal"):
        Journal(path)
    assert 200_000 == path.stat().st_size


def test_files_that_are_not_utf8_have_a_place(tmp_path: Path) -> None:
    """Their names go through the journal unchanged."""
    with Journal(tmp_path / "j") as journal:
        journal.begin(HEAD)
        journal.put(Row("\udc80.jpg", {"top": b""}))
        rows: Iterator[Row] = journal.rows()
        assert "\udc80.jpg" == next(rows).key
