"""Micro-batching: images of different requests share a Predict call, and none of them waits for others.

A model has a few slots on each server that serves it. While a server has no call, images are sent immediately. Beside
other calls a free slot is for as many images as the smallest call has, unless that has many and takes long; while all
slots are busy, they gather, up to the manifest's largest batch. There is no timer, so an idle gateway adds nothing, and
a busy one makes batches as large as its model server is slow. Images share a batch when they go to the same version and
want one and the same output, or several: then all are computed, and those that were not asked for are dropped. Each set
of outputs costs the model server a copy of the weights, and its first caller a second; warm-up has paid for each output
alone and for all, and callers choose among 2^n sets.

Once enough have gathered, one call goes beyond the slots, so that the model server has work while an answer travels
and the next call is made; few images wait for a slot, since each call costs something.

Interactive and bulk images of a model share no call, and each priority has slots of its own: an interactive image finds
them as if there were no bulk ones. Bulk calls take what slots interactive ones leave, and one in any case, so that a
bulk run always moves. The embedded model server is told which calls are bulk, and lets the others pass. A bulk image
that an interactive request joins goes over to the interactive ones.

An image whose caller is cancelled while it waits, or whose deadline passes, is not sent; a batch without waiters is
cancelled at the model server too. The model server is told the latest deadline of a batch's images.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np

from microtome.errors import DeadlineExceeded, ModelServerFault
from microtome.manifest import ModelCard
from service.core.ports import Family, ModelServer, Pixels, Tokens, Towers, Vectors
from service.core.timeouts import Deadline
from service.core.timings import Stages, unobserved
from service.errors import restated
from service.model_server.client import bulk_call
from service.telemetry.metrics import Metrics

_ENOUGH = 8
"""Images that are worth a call beyond the slots: shared among so many, what a call costs does not show. Beside a call
of more none waits for company."""


class _Waiting(NamedTuple):
    """One image that waits for its place in a batch."""

    card: ModelCard
    outputs: tuple[str, ...]
    """Those computed."""
    wanted: tuple[str, ...]
    """Those asked for."""
    taken: Pixels | Tokens
    """Pixels of an image, or ids of a text."""
    stages: Stages
    deadline: Deadline
    since: float
    context: Context
    """Of the caller: its stages belong to its trace."""
    answer: asyncio.Future[dict[str, Vectors]]
    """Each float32 [1, D]."""

    def joins(self, other: "_Waiting") -> bool:
        """Say whether both fit into one call."""
        return self.card is other.card and self.outputs == other.outputs

    def tell(self, stage: str, seconds: float) -> None:
        """Report to the caller how long a stage took."""
        self.context.run(self.stages, stage, seconds)


@dataclass(slots=True)
class _Lane:
    """What one model has waiting of one priority, and the images of each call under way, one perhaps beyond slots."""

    bulk: bool
    calls: list[int] = field(default_factory=list)
    waiting: list[_Waiting] = field(default_factory=list)

    def open(self, servers: int, slots: int) -> bool:
        """Whether there are images and a call of theirs may begin."""
        busy, waiting = len(self.calls), len(self.waiting)
        if not waiting or busy > slots:
            return False
        if busy == slots:
            return waiting >= _ENOUGH
        return busy < servers or waiting >= min(self.calls) or min(self.calls) > _ENOUGH


@dataclass(slots=True)
class _Lanes:
    """Both priorities of one model."""

    servers: Callable[[], int]
    each: int
    """Slots on each server."""
    interactive: _Lane = field(default_factory=lambda: _Lane(bulk=False))
    bulk: _Lane = field(default_factory=lambda: _Lane(bulk=True))
    leaving: bool = False

    def open(self) -> _Lane | None:
        """Return the lane whose call may begin now, interactive ones first."""
        if not self.interactive.waiting and not self.bulk.waiting:
            return None
        servers = self.servers()
        slots = self.each * servers
        if self.interactive.open(servers, slots):
            return self.interactive
        left = max(1, slots - len(self.interactive.calls))
        return self.bulk if self.bulk.open(min(servers, left), left) else None

    def hurry(self, images: Sequence[_Waiting]) -> bool:
        """Let bulk images wait as interactive ones; whether any of them has not left yet."""
        hurried = {id(image) for image in images}
        moved = [image for image in self.bulk.waiting if id(image) in hurried]
        self.bulk.waiting = [image for image in self.bulk.waiting if id(image) not in hurried]
        self.interactive.waiting += moved
        return bool(moved)


class Batcher:
    """A model server whose calls are shared. Implements the core's `ModelServer` port over another one."""

    def __init__(
        self, inner: ModelServer, *, slots: int, servers: Callable[[str], int] = lambda _: 1, metrics: Metrics
    ) -> None:
        """Batch the calls of `inner`.

        Args:
            inner: runs the calls.
            slots: calls of a model that may be under way on each server; one more begins while many images wait.
            servers: returns how many servers calls of a model can go to now, at least 1.
            metrics: show what waits, and the size of batches.
        """
        self._inner = inner
        self._slots = slots
        self._servers = servers
        self._metrics = metrics
        self._queued = metrics.level(metrics.queued_images.labels("interactive"))
        self._queued_bulk = metrics.level(metrics.queued_images.labels("bulk"))
        self._lanes: dict[str, _Lanes] = {}
        self._running: dict[asyncio.Task[None], list[_Waiting]] = {}

    def card(self, model: str) -> ModelCard:
        """Return the version in use; see the port."""
        return self._inner.card(model)

    async def card_of(self, model: str, version: int) -> ModelCard:
        """Return exactly this version; see the port."""
        return await self._inner.card_of(model, version)

    def cards(self) -> Mapping[str, ModelCard | None]:
        """Return all models; see the port."""
        return self._inner.cards()

    def readiness(self) -> Mapping[str, str | None]:
        """Return what is wrong with each model; see the port."""
        return self._inner.readiness()

    def versions(self, model: str) -> Mapping[int, str]:
        """Return every version of a model with its state; see the port."""
        return self._inner.versions(model)

    def engines(self, card: ModelCard) -> Sequence[str]:
        """Return what computes a version; see the port."""
        return self._inner.engines(card)

    def towers(self, model: str) -> Towers:
        """Return the versions that images and texts go to; see the port."""
        return self._inner.towers(model)

    def families(self) -> Mapping[str, Family]:
        """Return all families; see the port."""
        return self._inner.families()

    async def renewed(self, card: ModelCard, model: str = "") -> ModelCard:
        """Look for a successor; see the port."""
        return await self._inner.renewed(card, model)

    async def infer(
        self,
        card: ModelCard,
        outputs: Sequence[str],
        images: Sequence[Pixels | Tokens],
        stages: Stages = unobserved,
        deadline: Deadline | None = None,
    ) -> Mapping[str, Vectors]:
        """Run the version of `card` on images, each in whatever batch has room for it; see the port."""
        loop = asyncio.get_running_loop()
        lanes = self._lanes.get(card.name)
        if lanes is None:
            lanes = self._lanes[card.name] = _Lanes(partial(self._servers, card.name), self._slots)
        deadline = deadline or Deadline()
        facts = (stages, deadline, perf_counter(), copy_context())
        computed, wanted = warmed(card, outputs), tuple(outputs)
        mine = [_Waiting(card, computed, wanted, image, *facts, loop.create_future()) for image in images]
        if deadline.bulk:
            lanes.bulk.waiting += mine
            deadline.hurried = partial(self._hurry, lanes, mine)
        else:
            lanes.interactive.waiting += mine
        self._soon(lanes)
        if not lanes.leaving:
            self._tell_queue()
        try:
            if len(mine) == 1:
                # The core sends one image at a time: nothing to gather or to concatenate.
                return await mine[0].answer
            answers = await asyncio.gather(*(entry.answer for entry in mine))
        except BaseException:
            for entry in mine:
                entry.answer.cancel()
            # Now, not when a slot is free: until then the pixels of callers who have gone would gather without a bound.
            for lane in (lanes.interactive, lanes.bulk):
                lane.waiting = [entry for entry in lane.waiting if not entry.answer.done()]
            self._tell_queue()
            for task, batch in self._running.items():
                if all(entry.answer.cancelled() for entry in batch):
                    task.cancel()
            raise
        return {name: np.concatenate([answer[name] for answer in answers]) for name in outputs}

    def _hurry(self, lanes: _Lanes, images: Sequence[_Waiting]) -> None:
        if lanes.hurry(images):
            self._soon(lanes)

    def _soon(self, lanes: _Lanes) -> None:
        """Send at the end of this tick, so that what comes in the same tick goes together."""
        if not lanes.leaving and lanes.open():
            lanes.leaving = True
            asyncio.get_running_loop().call_soon(self._leave, lanes)

    def _leave(self, lanes: _Lanes) -> None:
        lanes.leaving = False
        while lane := lanes.open():
            batch = _next_batch(lane)
            if not batch:
                continue
            lane.calls.append(len(batch))
            # In the first one's context: what is logged belongs to a request.
            task = asyncio.create_task(self._run(lanes, lane, batch), context=batch[0].context.copy())
            self._running[task] = batch
            task.add_done_callback(self._running.pop)
        self._tell_queue()

    def _tell_queue(self) -> None:
        self._queued(sum(len(lanes.interactive.waiting) for lanes in self._lanes.values()))
        self._queued_bulk(sum(len(lanes.bulk.waiting) for lanes in self._lanes.values()))

    async def _run(self, lanes: _Lanes, lane: _Lane, batch: list[_Waiting]) -> None:
        try:
            now, priority = perf_counter(), "bulk" if lane.bulk else "interactive"
            bulk_call.set(lane.bulk)
            for entry in batch:
                entry.tell("queue", now - entry.since)
                self._metrics.left_queue(priority, now - entry.since)
            await self._answer(batch)
        except Exception as error:  # noqa: BLE001, any error goes to exactly the members of the batch
            for entry in batch:
                if not entry.answer.done():
                    entry.answer.set_exception(restated(error))
        finally:
            lane.calls.remove(len(batch))
            self._soon(lanes)

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        first = batch[0]

        def stages(name: str, seconds: float) -> None:
            for entry in batch:
                entry.tell(name, seconds)

        taken = [entry.taken for entry in batch]
        latest = Deadline(max(entry.deadline.at for entry in batch))
        try:
            with self._metrics.predicting(first.card.name, len(batch), [entry.context for entry in batch]):
                vectors = await self._inner.infer(first.card, first.outputs, taken, stages, latest)
        except ModelServerFault as error:
            # One image's vector is not finite: the others of its batch are asked again, without it.
            if not 0 < len(error.rows) < len(batch):
                raise
            for row in error.rows:
                if not batch[row].answer.done():
                    batch[row].answer.set_exception(restated(error))
            await self._answer([entry for row, entry in enumerate(batch) if row not in error.rows])
            return
        for row, entry in enumerate(batch):
            if not entry.answer.done():
                entry.answer.set_result({name: vectors[name][row : row + 1] for name in entry.wanted})


def warmed(card: ModelCard, outputs: Sequence[str]) -> tuple[str, ...]:
    """Return the smallest set of outputs that the exporter's warm-up covers and that has these: one alone, or all."""
    return tuple(outputs) if len(outputs) == 1 else tuple(card.outputs)


def _next_batch(lane: _Lane) -> list[_Waiting]:
    """Take the oldest image out, and all that fit to it, as far as the model's largest batch has room."""
    for entry in lane.waiting:
        if not entry.answer.done() and entry.deadline.left() <= 0:
            entry.answer.set_exception(DeadlineExceeded("The time allowed was over before the image had its turn."))
    lane.waiting = [entry for entry in lane.waiting if not entry.answer.done()]
    if not lane.waiting:
        return []
    first = lane.waiting[0]
    batch = [entry for entry in lane.waiting if entry.joins(first)][: first.card.manifest.max_batch_size]
    taken = {id(entry) for entry in batch}
    lane.waiting = [entry for entry in lane.waiting if id(entry) not in taken]
    return batch
