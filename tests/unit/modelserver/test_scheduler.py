"""The scheduler: who runs with whom, and who is not run at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from grpc import StatusCode

from modelserver.batching.limits import BatchLimits
from modelserver.batching.scheduler import Scheduler
from modelserver.batching.version import Version
from modelserver.errors import Internal, InvalidArgument, ResourceExhausted, ServingError, Unavailable
from modelserver.metrics import Metrics
from modelserver.tensors.codec import Array
from tests.unit.modelserver.stand_ins import DoublingModel


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Return threads to run in."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


def _column(*values: float) -> dict[str, Array]:
    return {"x": np.array(values, np.float32)}


async def _occupied(scheduler: Scheduler, version: Version, model: DoublingModel) -> asyncio.Task[list[Array]]:
    """Fill the only slot with a request that waits for the gate."""
    first = asyncio.create_task(scheduler.run(version, _column(0), ["y"]))
    assert await asyncio.to_thread(model.began.acquire, timeout=10)
    return first


async def test_requests_that_wait_run_together_and_each_gets_its_rows(threads: ThreadPoolExecutor) -> None:
    """While the slot is busy they gather: one run for the three of them."""
    model = DoublingModel(open_at_once=False)
    version = Version("m", 1, model, BatchLimits())
    scheduler = Scheduler(threads, 1, Metrics())
    first = await _occupied(scheduler, version, model)
    waiting = [
        asyncio.create_task(scheduler.run(version, _column(*values), ["y"])) for values in ([1], [2, 3], [4, 5, 6])
    ]
    await asyncio.sleep(0)

    model.gate.set()

    assert [[0.0], [2.0], [4.0, 6.0], [8.0, 10.0, 12.0]] == [(await task)[0].tolist() for task in (first, *waiting)]
    assert [1, 6] == model.batches


async def test_batches_end_at_the_limit(threads: ThreadPoolExecutor) -> None:
    """A request is never divided; one that does not fit opens the next batch."""
    model = DoublingModel(open_at_once=False)
    version = Version("m", 1, model, BatchLimits(4))
    scheduler = Scheduler(threads, 1, Metrics())
    first = await _occupied(scheduler, version, model)
    waiting = [asyncio.create_task(scheduler.run(version, _column(*[1.0] * rows), ["y"])) for rows in (3, 2, 2, 1)]
    await asyncio.sleep(0)

    model.gate.set()
    await asyncio.gather(first, *waiting)

    assert [1, 3, 4, 1] == model.batches


async def test_requests_of_different_kinds_do_not_meet(threads: ThreadPoolExecutor) -> None:
    """Other outputs, another type, another trailing shape, another version: a run each."""
    model = DoublingModel(open_at_once=False)
    version, other = Version("m", 1, model, BatchLimits()), Version("m", 2, model, BatchLimits())
    scheduler = Scheduler(threads, 1, Metrics())
    first = await _occupied(scheduler, version, model)
    kinds = [
        (version, _column(1), ["y"]),
        (version, _column(1), ["z"]),
        (version, {"x": np.ones(1, np.uint8)}, ["y"]),
        (version, {"x": np.ones((1, 7), np.float32)}, ["y"]),
        (other, _column(1), ["y"]),
    ]
    waiting = [asyncio.create_task(scheduler.run(*kind)) for kind in kinds]
    await asyncio.sleep(0)

    model.gate.set()
    await asyncio.gather(first, *waiting)

    assert [1] * 6 == model.batches


async def test_a_full_queue_refuses_at_once_and_room_is_given_back(threads: ThreadPoolExecutor) -> None:
    """A request that leaves makes room for another."""
    model = DoublingModel(open_at_once=False)
    version = Version("m", 1, model, BatchLimits(1, max_enqueued_batches=2))
    scheduler = Scheduler(threads, 1, Metrics())
    first = await _occupied(scheduler, version, model)
    waiting = [asyncio.create_task(scheduler.run(version, _column(n), ["y"])) for n in (1, 2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="currently 2 batches enqueued and max_enqueued_batches is 2"):
        await scheduler.run(version, _column(3), ["y"])

    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    late = asyncio.create_task(scheduler.run(version, _column(4), ["y"]))
    await asyncio.sleep(0)
    model.gate.set()

    assert [[0.0], [4.0], [8.0]] == [(await task)[0].tolist() for task in (first, waiting[1], late)]
    assert [1, 1, 1] == model.batches


async def test_who_waited_too_long_is_not_run(threads: ThreadPoolExecutor) -> None:
    """RESOURCE_EXHAUSTED, as the real server says it; its mate is answered."""
    model = DoublingModel(open_at_once=False)
    version = Version("m", 1, model, BatchLimits())
    scheduler = Scheduler(threads, 1, Metrics())
    first = await _occupied(scheduler, version, model)
    now = asyncio.get_running_loop().time()
    late = asyncio.create_task(scheduler.run(version, _column(1), ["y"], deadline=now))
    mate = asyncio.create_task(scheduler.run(version, _column(2), ["y"], deadline=now + 60))
    await asyncio.sleep(0)

    model.gate.set()

    with pytest.raises(
        ResourceExhausted, match=r"^RESOURCE_EXHAUSTED: Run\(\) timeout exceeded while waiting in batching queue$"
    ):
        await late
    assert [4.0] == (await mate)[0].tolist()
    await first
    assert [1, 1] == model.batches


async def test_a_version_is_held_until_its_run_is_over_even_when_the_caller_goes(threads: ThreadPoolExecutor) -> None:
    """Otherwise the session would be closed under a running kernel."""
    model = DoublingModel(open_at_once=False)
    version = Version("m", 1, model, BatchLimits())
    scheduler = Scheduler(threads, 1, Metrics())
    first = await _occupied(scheduler, version, model)
    first.cancel()
    await asyncio.wait([first])

    drained = asyncio.create_task(version.drained())
    await asyncio.sleep(0)
    assert not drained.done()
    model.gate.set()

    await asyncio.wait_for(drained, 10)


async def test_without_batching_everyone_runs_alone_whatever_the_shape(threads: ThreadPoolExecutor) -> None:
    """Scalars included."""
    model = DoublingModel()
    scheduler = Scheduler(threads, 2, Metrics())
    version = Version("m", 1, model)

    answers = await asyncio.gather(
        scheduler.run(version, {"x": np.array(21.0)}, ["y"]), scheduler.run(version, _column(1, 2), ["y"])
    )

    assert [42.0, [2.0, 4.0]] == [answer[0].tolist() for answer in answers]


async def test_a_failing_run_fails_its_requests_and_frees_its_slot(threads: ThreadPoolExecutor) -> None:
    """An unforeseen exception is INTERNAL, with its cause for the log alone; the next request is answered."""
    scheduler = Scheduler(threads, 1, Metrics())
    version = Version("m", 1, DoublingModel(), BatchLimits())

    with pytest.raises(Internal) as failure:
        await scheduler.run(version, _column(13), ["y"])

    assert "thirteen" not in failure.value.message
    assert "thirteen" == str(failure.value.__cause__)
    assert [2.0] == (await scheduler.run(version, _column(1), ["y"]))[0].tolist()


async def test_the_runtimes_own_error_keeps_its_code(threads: ThreadPoolExecutor) -> None:
    """Every mate gets an exception of its own."""

    class Exhausted(DoublingModel):
        def run(self, *_: object) -> list[Array]:
            raise ServingError("OOM when allocating", StatusCode.RESOURCE_EXHAUSTED)

    scheduler = Scheduler(threads, 1, Metrics())

    with pytest.raises(ServingError, match="OOM when allocating") as failure:
        await scheduler.run(Version("m", 1, Exhausted(), BatchLimits()), _column(1), ["y"])

    assert StatusCode.RESOURCE_EXHAUSTED is failure.value.code


@pytest.mark.parametrize(
    ("feeds", "text"),
    [
        ({"x": np.array(1.0)}, "must have at least one dimension"),
        ({"x": np.zeros(1), "y": np.zeros(2)}, "must have equal 0th-dimension size"),
        ({"x": np.zeros(65)}, "Task size 65 is larger than maximum input batch size 64"),
    ],
)
async def test_what_cannot_be_batched_is_refused(
    threads: ThreadPoolExecutor, feeds: dict[str, Array], text: str
) -> None:
    """Before it waits; and nothing is left behind."""
    version = Version("m", 1, DoublingModel(), BatchLimits())
    with pytest.raises(InvalidArgument, match=text):
        await Scheduler(threads, 1, Metrics()).run(version, feeds, ["y"])

    await asyncio.wait_for(version.drained(), 1)


async def test_others_pass_bulk_batches_but_not_for_ever(threads: ThreadPoolExecutor) -> None:
    """Each is a batch of one row here: four pass, the fifth is bulk's; alone, bulk batches run as others do."""
    model = DoublingModel(open_at_once=False)
    version, order = Version("m", 1, model, BatchLimits(1, 20)), list[str]()
    scheduler = Scheduler(threads, 1, Metrics())
    first = await _occupied(scheduler, version, model)

    async def ask(name: str) -> None:
        await scheduler.run(version, _column(1), ["y"], bulk=name == "bulk")
        order.append(name)

    waiting = [asyncio.create_task(ask("bulk")) for _ in range(3)]
    waiting += [asyncio.create_task(ask("other")) for _ in range(6)]
    await asyncio.sleep(0)

    model.gate.set()
    await asyncio.gather(first, *waiting)

    assert ["other"] * 4 + ["bulk"] + ["other"] * 2 + ["bulk"] * 2 == order
