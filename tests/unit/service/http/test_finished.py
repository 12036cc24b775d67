"""Answers kept as they were written: bounded in bytes, the least recently used leaving first."""

from service.http.response_cache import Answered, Asked, FinishedAnswers
from tests.fakes.model_server import card


def answered(size: int) -> Answered:
    """An answer with a body of so many bytes."""
    return Answered(card(), [], bytes(size))


def asked(digest: str) -> Asked:
    """A question about an image."""
    return Asked(digest, b"", b"*/*")


def test_the_bound_holds_and_the_least_recently_used_leave() -> None:
    """What was asked for again stays; what nobody wanted goes; what is larger than all room is not kept."""
    answers = FinishedAnswers(10_000)
    for name in ("a", "b", "c"):
        answers.keep(asked(name), answered(1_500))
    assert answers.get(asked("a")) is not None
    answers.keep(asked("d"), answered(1_500))
    assert [True, False, True, True] == [answers.get(asked(name)) is not None for name in ("a", "b", "c", "d")]
    answers.keep(asked("large"), answered(9_000))
    assert answers.get(asked("large")) is None
    assert 0 < answers.size <= 10_000


def test_keeping_anew_and_dropping_give_the_bytes_back() -> None:
    """The same question has one answer, and what is dropped costs nothing."""
    answers = FinishedAnswers(10_000)
    answers.keep(asked("a"), answered(10))
    before = answers.size
    answers.keep(asked("a"), answered(20))
    assert before + 10 == answers.size
    answers.drop(asked("a"))
    answers.drop(asked("a"))
    assert 0 == answers.size


def test_no_room_keeps_nothing() -> None:
    """Zero bytes switch it off."""
    answers = FinishedAnswers(0)
    answers.keep(asked("a"), answered(0))
    assert answers.get(asked("a")) is None
    assert (False, True) == (answers.possible, FinishedAnswers(1).possible)
