"""Load shedding: work in flight is bounded, and work that would wait too long is refused."""

import asyncio
from contextlib import ExitStack

import pytest

from microtome.errors import Overloaded
from service.core.admission import Backlog, Backlogs, Budget, BulkGate
from service.core.timeouts import Deadline


class Line:
    """A backlog of at most two seconds, with a clock and places that are told when to leave."""

    def __init__(self) -> None:
        self.now = 100.0
        self.backlog = Backlog(2.0, lambda: self.now)
        self._inside: list[ExitStack] = []

    def come(self, images: int) -> None:
        """Take places."""
        for _ in range(images):
            stack = ExitStack()
            stack.enter_context(self.backlog)
            self._inside.append(stack)

    def leave(self, images: int, each: float) -> None:
        """Give places back, one after the other, so many seconds apart."""
        for _ in range(images):
            self.now += each
            self._inside.pop(0).close()


def test_the_wait_is_what_stands_before_times_what_one_takes() -> None:
    """At ten images a second, fifteen wait 1.5 s."""
    line = Line()
    line.come(25)
    line.leave(10, 0.1)
    assert line.backlog.wait() == pytest.approx(1.5, rel=0.1)


def test_who_would_wait_too_long_is_refused_and_told_when_to_come() -> None:
    """And is let in once enough have left."""
    line = Line()
    line.come(80)
    line.leave(20, 0.1)
    with pytest.raises(Overloaded, match=r"at most 2 s") as refused:
        line.come(1)
    assert 4 <= refused.value.retry_after <= 5
    assert "wait" == refused.value.reason
    line.leave(45, 0.1)
    line.come(1)


def test_a_standstill_lets_the_estimate_grow() -> None:
    """When nothing leaves any more, no request is let in on the strength of better times."""
    line = Line()
    line.come(20)
    line.leave(10, 0.01)
    line.come(1)
    line.now += 30
    with pytest.raises(Overloaded):
        line.come(1)


def test_idle_time_is_not_held_against_anybody() -> None:
    """After a pause of an hour the first ones are let in as at the start."""
    line = Line()
    line.come(20)
    line.leave(20, 0.1)
    line.now += 3600
    line.come(30)
    assert line.backlog.wait() == 0


def test_what_does_not_fit_is_refused_and_what_is_done_makes_room() -> None:
    """Up to the limit is let in, beyond it is not, and leaving gives the room back, also after an error."""
    seen: list[int] = []
    budget = Budget(3, "images", seen.append)
    with budget.hold(2), budget.hold(1), pytest.raises(Overloaded, match="3 of 3 images"), budget.hold(1):
        pytest.fail("was let in beyond the limit")
    with pytest.raises(ZeroDivisionError), budget.hold(3):
        raise ZeroDivisionError
    with budget.hold(3):
        assert seen == [2, 3, 2, 0, 3, 0, 3]


def test_a_single_large_request_is_let_in_alone() -> None:
    """What no retry could make fit is let through when nothing else runs, and keeps others out meanwhile."""
    budget = Budget(3, "images")
    with budget.hold(5), pytest.raises(Overloaded), budget.hold(1):
        pytest.fail("was let in beside a request that fills everything")


def test_a_flooded_model_has_nothing_of_another_refused() -> None:
    """Each waits for its own: hundreds before a slow one say nothing of the one that is idle."""
    backlogs = Backlogs(0.0)
    with ExitStack() as inside:
        leaving = [ExitStack() for _ in range(20)]
        for stack in (inside, *leaving):
            stack.enter_context(backlogs.entered("slow"))
        for stack in leaving:
            stack.close()
        with pytest.raises(Overloaded):
            backlogs.of("slow").require()
        backlogs.of("fast").require()
        with backlogs.entered("fast"):
            pass


def test_bulk_leaves_a_quarter_of_each_limit_to_others() -> None:
    """And at least one place to bulk; the refusal names the lane, for operators and callers."""
    budget = Budget(8, "images")
    bulk = budget.for_bulk()
    with budget.hold(6), bulk.hold(6):
        with pytest.raises(Overloaded, match="holds 6 of 6 images of bulk requests") as refused:
            bulk.require(1)
        assert "bulk-images" == refused.value.reason
        budget.require(2)
    Budget(1, "bytes").for_bulk().require(1)


def test_bulk_images_wait_in_a_backlog_of_their_own() -> None:
    """So a flooded bulk run refuses no interactive image of the same model."""
    backlogs = Backlogs(0.0)
    assert backlogs.entered("m", bulk=True) is backlogs.of("m", bulk=True)
    assert backlogs.entered("m") is not backlogs.entered("m", bulk=True)


async def test_the_gate_lets_few_bulk_images_pass_in_their_order() -> None:
    """A place goes to the first that still waits: not to one that was cancelled, or hurried on without a place."""
    gate, deadlines = BulkGate(1), [Deadline(bulk=True) for _ in range(5)]
    first, gone, hurried, second, late = [asyncio.create_task(gate.enter(each)) for each in deadlines]
    assert await first
    await asyncio.sleep(0)
    gone.cancel()
    deadlines[2].hurry()
    assert not await hurried
    gate.leave()
    assert await second
    # Handed a place in the tick in which it is cancelled: the place is not lost.
    gate.leave()
    late.cancel()
    await asyncio.wait([gone, late])
    assert gone.cancelled()
    assert late.cancelled()
    assert await asyncio.wait_for(gate.enter(Deadline(bulk=True)), 5)
