"""Images of different requests share a call, none waits for company, and none suffers for another."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from time import monotonic
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from microtome.errors import DeadlineExceeded, ModelServerDown, ModelServerFault
from microtome.manifest import ModelCard
from service.core.ports import Pixels, Tokens
from service.core.timeouts import Deadline
from service.model_server.batcher import Batcher
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing
from tests.fakes.model_server import POISON, SIZE, FakeModelServer, card


class Bench:
    """A batcher with one slot over a fake model server for batches of four."""

    def __init__(self) -> None:
        self.server = FakeModelServer(card())
        self.card = self.server.card("toy")
        self.metrics = Metrics()
        self.batcher = Batcher(self.server, slots=1, metrics=self.metrics)

    def ask(
        self, grey: int, outputs: Sequence[str] = ("mean",), deadline: Deadline | None = None
    ) -> "asyncio.Task[float]":
        """Ask for one grey image's mean, which is its grey."""

        async def asked() -> float:
            found = await self.batcher.infer(self.card, outputs, [image(grey)], deadline=deadline)
            return float(found[outputs[0]][0][0])

        return asyncio.create_task(asked())

    async def occupied(self) -> "asyncio.Task[float]":
        """Hold the only slot with a call that does not end before the gate is opened."""
        self.server.gate.clear()
        first = self.ask(1)
        await self.server.called(1)
        return first

    def sizes(self) -> list[int]:
        """The sizes of the batches answered so far."""
        return [size for _, _, size in self.server.calls]


@pytest.fixture
async def bench() -> Bench:
    """A batcher, idle."""
    return Bench()


async def test_a_shared_call_is_one_span_that_every_request_leads_to() -> None:
    """It is within the first request that is recorded; links lead from the others to it and back."""
    kept = InMemorySpanExporter()
    tracing, bench = Tracing(SimpleSpanProcessor(kept)), Bench()
    bench.batcher = Batcher(bench.server, slots=1, metrics=tracing.metrics())

    async def request(path: str, grey: int) -> None:
        with tracing.request("POST", path, {}) as ended:
            await bench.ask(grey)
            ended(path, 200, {})

    first = await bench.occupied()
    names = ("/one", "/two", "/three")
    requests = [asyncio.create_task(request(name, grey)) for grey, name in enumerate(names)]
    unseen = bench.ask(9)
    await asyncio.sleep(0)
    bench.server.gate.set()
    await asyncio.gather(first, unseen, *requests)

    assert [1, 4] == bench.sizes()
    spans: dict[str, Any] = {span.name: span for span in kept.get_finished_spans()}
    assert 1 == len([span for span in kept.get_finished_spans() if span.name == "infer"])
    one, two, three = (spans[f"POST {name}"] for name in names)
    infer = spans["infer"]
    assert (one.context.span_id, 4) == (infer.parent.span_id, infer.attributes["microtome.images"])
    assert [two.context, three.context] == [link.context for link in infer.links]
    assert [[], [infer.context], [infer.context]] == [[link.context for link in s.links] for s in (one, two, three)]


def image(grey: int) -> Pixels:
    """One grey image."""
    return np.full((SIZE, SIZE, 3), grey, np.uint8)


async def test_an_idle_batcher_sends_at_once(bench: Bench) -> None:
    """With a slot free an image does not wait."""
    assert 5 == await bench.ask(5)
    assert [1] == bench.sizes()


async def test_what_comes_while_all_slots_are_busy_is_sent_together(bench: Bench) -> None:
    """Up to the manifest's batch size, oldest first, and every image gets its own vector."""
    first = await bench.occupied()
    others = [bench.ask(grey) for grey in range(2, 8)]
    await asyncio.sleep(0)
    bench.server.gate.set()
    assert [1, 2, 3, 4, 5, 6, 7] == await asyncio.gather(first, *others)
    assert [1, 4, 2] == bench.sizes()


async def test_eight_that_wait_are_a_call_beyond_the_slots(bench: Bench) -> None:
    """One at a time, and seven wait for a slot: the model server is to have work, not to be flooded."""
    first = await bench.occupied()
    others = [bench.ask(grey) for grey in range(2, 9)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bench.server.arrived == 1
    others.append(bench.ask(9))
    await bench.server.called(2)
    others += [bench.ask(grey) for grey in range(10, 18)]
    for _ in range(4):
        await asyncio.sleep(0)
    assert bench.server.arrived == 2
    bench.server.gate.set()
    assert list(range(1, 18)) == await asyncio.gather(first, *others)
    assert 1 == await bench.ask(1)


@pytest.mark.parametrize(
    ("servers", "images", "sizes"), [(1, 3, [3, 3]), (1, 9, [9, 2, 1]), (2, 3, [3, 2, 1])], ids=["few", "many", "idle"]
)
async def test_a_call_beside_another_has_as_many_images(
    bench: Bench, servers: int, images: int, sizes: list[int]
) -> None:
    """Fewer wait, but not for a call of many, and not where another server is idle."""
    bench.card = replace(bench.card, manifest=replace(bench.card.manifest, max_batch_size=16))
    bench.batcher = Batcher(bench.server, slots=2, servers=lambda _: servers, metrics=bench.metrics)
    bench.server.gate.clear()
    first = [bench.ask(grey) for grey in range(1, images + 1)]
    await bench.server.called(1)
    second = [bench.ask(101), bench.ask(102)]
    await _ticks()
    assert bench.server.arrived == (2 if sizes[1] == 2 else 1)
    second.append(bench.ask(103))
    await _ticks()
    bench.server.gate.set()
    assert [*range(1, images + 1), 101, 102, 103] == await asyncio.gather(*first, *second)
    assert sizes == bench.sizes()


async def test_one_image_beside_one_is_sent_at_once(bench: Bench) -> None:
    """Where few come, a slot that is free is used."""
    bench.batcher = Batcher(bench.server, slots=2, metrics=bench.metrics)
    first = await bench.occupied()
    second = bench.ask(2)
    await bench.server.called(2)
    bench.server.gate.set()
    assert (1, 2) == (await first, await second)


async def test_what_comes_in_one_tick_goes_together(bench: Bench) -> None:
    """The images of one request do not wait for each other's call."""
    answer = await bench.batcher.infer(bench.card, ["mean"], [image(grey) for grey in (1, 2, 3)])
    assert [1, 2, 3] == answer["mean"][:, 0].tolist()
    assert [3] == bench.sizes()


async def test_only_equal_outputs_share_a_batch(bench: Bench) -> None:
    """What one request needs is not computed for another that does not."""
    first = await bench.occupied()
    others = [bench.ask(2, ["mean"]), bench.ask(3, ["corner"]), bench.ask(4, ["mean"])]
    await asyncio.sleep(0)
    bench.server.gate.set()
    await asyncio.gather(first, *others)
    assert [("mean",), ("mean",), ("corner",)] == [outputs for _, outputs, _ in bench.server.calls]
    assert [1, 2, 1] == bench.sizes()


async def test_whoever_has_gone_is_not_sent(bench: Bench) -> None:
    """A caller whose time is over leaves the queue, and the others move up."""
    first = await bench.occupied()
    gone, stays = bench.ask(2), bench.ask(3)
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    bench.server.gate.set()
    assert (1, 3) == (await first, await stays)
    assert [1, 1] == bench.sizes()


async def test_pixels_are_held_no_longer_than_somebody_waits_for_them(bench: Bench) -> None:
    """Also while no slot becomes free; and the gauge shows who waits at any time."""
    first = await bench.occupied()
    waiting = [bench.ask(grey) for grey in range(2, 8)]
    await asyncio.sleep(0)
    assert 'microtome_queued_images{priority="interactive"} 6.0' in bench.metrics.exposition().decode()
    pixels = [weakref.ref(entry.taken) for entry in bench.batcher._lanes["toy"].interactive.waiting]
    while waiting:
        waiting[-1].cancel()
        await asyncio.wait([waiting.pop()])
    gc.collect()
    assert all(found() is None for found in pixels)
    assert 'microtome_queued_images{priority="interactive"} 0.0' in bench.metrics.exposition().decode()
    bench.server.gate.set()
    assert 1 == await first


async def test_a_call_that_nobody_waits_for_is_cancelled(bench: Bench) -> None:
    """Its slot is free for the next one at once."""
    first = await bench.occupied()
    first.cancel()
    await asyncio.wait([first])
    second = bench.ask(2)
    await bench.server.called(2)
    bench.server.gate.set()
    assert 2 == await second
    assert [1] == bench.sizes()


async def test_a_failed_batch_is_reported_to_exactly_its_members(bench: Bench) -> None:
    """Those who wait meanwhile are served, and each member has an error of its own."""
    first = await bench.occupied()
    bench.server.failure = ModelServerDown("gone", retry_after=7)
    bench.server.gate.set()
    others = [bench.ask(2), bench.ask(3)]
    errors = await asyncio.gather(first, *others, return_exceptions=True)
    assert [7, 7, 7] == [error.retry_after for error in errors if isinstance(error, ModelServerDown)]
    assert len({id(error) for error in errors}) == 3
    bench.server.failure = None
    assert 4 == await bench.ask(4)


async def test_what_has_expired_is_not_sent(bench: Bench) -> None:
    """Whose time is over before its turn is told so; whose time was extended meanwhile is sent."""
    first = await bench.occupied()
    over, moved = Deadline(monotonic() - 1), Deadline(monotonic() - 1)
    late = asyncio.create_task(bench.batcher.infer(bench.card, ["mean"], [image(2)], deadline=over))
    saved = asyncio.create_task(bench.batcher.infer(bench.card, ["mean"], [image(3)], deadline=moved))
    await asyncio.sleep(0)
    moved.extend(monotonic() + 60)
    bench.server.gate.set()
    with pytest.raises(DeadlineExceeded):
        await late
    assert (1, 3) == (await first, float((await saved)["mean"][0][0]))
    assert [1, 1] == bench.sizes()


async def test_a_batch_may_take_as_long_as_its_most_patient_image(bench: Bench) -> None:
    """The model server is told the latest deadline."""
    soon, late = Deadline(monotonic() + 10), Deadline(monotonic() + 60)
    both = (bench.batcher.infer(bench.card, ["mean"], [image(2)], deadline=one) for one in (late, soon))
    await asyncio.gather(*both)
    assert ([2], [late.at]) == (bench.sizes(), bench.server.deadlines)


async def test_one_image_that_is_not_finite_harms_no_batch_mate(bench: Bench) -> None:
    """The batch is asked again without it."""
    first = await bench.occupied()
    good, bad, fine = bench.ask(2), bench.ask(POISON), bench.ask(3)
    await asyncio.sleep(0)
    bench.server.gate.set()
    assert (1, 2, 3) == (await first, await good, await fine)
    with pytest.raises(ModelServerFault):
        await bad


async def test_sets_of_outputs_that_warm_up_has_not_seen_are_not_asked_for() -> None:
    """One output alone, or all: any other set would be another copy of the weights. Callers get what they asked for."""
    toy = card()
    third = replace(toy.manifest.outputs[0], name="third")
    three = replace(toy, manifest=replace(toy.manifest, outputs=(*toy.manifest.outputs, third)))
    server = Recording(three)
    batcher = Batcher(server, slots=1, metrics=Metrics())
    sets = [names for size in (1, 2, 3) for names in combinations(("mean", "corner", "third"), size)]
    for names in sets:
        assert set(names) == (await batcher.infer(three, names, [image(5)])).keys()
    assert {("mean",), ("corner",), ("third",), ("mean", "corner", "third")} == {
        outputs for _, outputs, _ in server.calls
    }


async def test_images_that_want_different_sets_share_a_batch(bench: Bench) -> None:
    """Those of several outputs; for an image that wants one alone no other is computed."""
    first = await bench.occupied()
    waiting = [bench.ask(7, names) for names in (("mean", "corner"), ("corner", "mean"), ("mean",))]
    await asyncio.sleep(0)
    bench.server.gate.set()
    assert [1, 7, 7, 7] == [await task for task in (first, *waiting)]
    assert [1, 1, 2] == sorted(bench.sizes())


class Recording(FakeModelServer):
    """Computes a third output, which is the first."""

    async def infer(
        self, card: ModelCard, outputs: Sequence[str], images: Sequence[Pixels | Tokens], *more: Any
    ) -> Any:
        """Compute, and remember what was asked."""
        known = [name for name in outputs if name != "third"] or ["mean"]
        found = dict(await super().infer(card, known, images, *more))
        version, _, size = self.calls.pop()
        self.calls.append((version, tuple(outputs), size))
        return {name: found["mean" if name == "third" and "mean" in found else name] for name in outputs}


async def _ticks() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


def _bulk() -> Deadline:
    return Deadline(bulk=True)


async def test_an_interactive_image_finds_a_slot_beside_a_bulk_run(bench: Bench) -> None:
    """Bulk calls hold all slots and more wait; the interactive image is sent at once, in a call of its own."""
    bench.server.gate.clear()
    first = bench.ask(1, deadline=_bulk())
    await bench.server.called(1)
    waiting = [bench.ask(grey, deadline=_bulk()) for grey in range(2, 7)]
    await _ticks()
    assert bench.server.arrived == 1
    urgent = bench.ask(9)
    await bench.server.called(2)
    assert 'microtome_queued_images{priority="bulk"} 5.0' in bench.metrics.exposition().decode()
    bench.server.gate.set()
    assert [1, 2, 3, 4, 5, 6, 9] == await asyncio.gather(first, *waiting, urgent)
    assert [1, 1, 4, 1] == bench.sizes()
    assert [True, False, True, True] == bench.server.bulk
    text = bench.metrics.exposition().decode()
    assert 'microtome_queue_seconds_count{priority="bulk"} 6.0' in text
    assert 'microtome_queue_seconds_count{priority="interactive"} 1.0' in text


async def test_a_bulk_run_moves_while_interactive_calls_hold_all_slots(bench: Bench) -> None:
    """One bulk call is under way in any case; further ones wait for slots that interactive images leave."""
    first = await bench.occupied()
    queued = [bench.ask(grey) for grey in (2, 3)]
    bulk = [bench.ask(grey, deadline=_bulk()) for grey in (4, 5, 6, 7, 8, 9)]
    await bench.server.called(2)
    await _ticks()
    assert bench.server.arrived == 2
    bench.server.gate.set()
    assert [1, 2, 3, 4, 5, 6, 7, 8, 9] == await asyncio.gather(first, *queued, *bulk)
    assert [1, 4, 2, 2] == bench.sizes()


async def test_a_bulk_image_that_is_hurried_leaves_the_others_behind(bench: Bench) -> None:
    """It is sent as an interactive one; one that is under way already, or has gone, is left alone."""
    bench.server.gate.clear()
    under_way, joined, gone = _bulk(), _bulk(), _bulk()
    first = bench.ask(1, deadline=under_way)
    await bench.server.called(1)
    others = [bench.ask(grey, deadline=_bulk()) for grey in (2, 3)]
    urgent, left = bench.ask(4, deadline=joined), bench.ask(5, deadline=gone)
    await _ticks()
    left.cancel()
    await asyncio.wait([left])
    for each in (under_way, joined, gone):
        each.hurry()
    await bench.server.called(2)
    await _ticks()
    assert bench.server.arrived == 2
    bench.server.gate.set()
    assert [1, 2, 3, 4] == await asyncio.gather(first, *others, urgent)
    assert [1, 1, 2] == bench.sizes()
