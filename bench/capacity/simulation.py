"""A queueing simulation in SimPy: gateways look images up, admit and decode misses; model servers run them in batches.

A gateway has a few cores, and an event loop that uses one of them at a time: a hit is work of the loop alone, decoding
that of threads beside it. Admission is the gateway's own code. Images wait until a call of theirs may begin, as in
`service/model_server/batcher.py`, and a call is computed on one core of its server. On one machine all share the cores;
in a cluster gateways and servers have their own, and callers and Redis are left out.
"""

import random
from collections.abc import Generator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import simpy

from bench.capacity.costs import Costs
from microtome.errors import Overloaded
from service.core.admission import Backlog, Budget

Process = Generator[simpy.Event, Any, None]

_SLICE = 0.003
"""Seconds that a core works on one thing before others have their turn, as Linux shares cores."""
_WAIT = 5.0
"""Seconds that an image may be expected to wait; beyond it the gateway refuses."""
_ENOUGH = 8
"""Waiting images that are worth a call beyond the slots."""
_WORTH = 0.01
"""Hit rate from which on images are looked up before they are refused."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The machines.

    Attributes:
        gateways: Their number; callers are spread evenly.
        gateway_cores: Cores of each gateway.
        servers: Number of model servers.
        server_cores: Calls that a model server computes at a time: its cores, or 1 for a GPU.
        inference: Seconds of such a core for one image.
        shared: Whether gateway, model server, Redis and callers share the one gateway's cores, as on a laptop.
        slots: Calls that a gateway has under way for each model server.
        max_batch: Images of a call at most.
        in_flight: Images that a gateway computes at a time at most.
    """

    gateways: int
    gateway_cores: int
    servers: int
    server_cores: int
    inference: float
    shared: bool = False
    slots: int = 2
    max_batch: int = 32
    in_flight: int = 256


@dataclass(frozen=True, slots=True)
class Simulated:
    """The result.

    Attributes:
        rate: Images answered a second.
        refused: Images refused a second.
        p50: Seconds within which half of the answers came.
        p99: Seconds within which all but one in a hundred came.
        gateway_use: Part of the gateways' cores that is used, or of their event loops, whichever is more.
        server_use: Part of the model servers that is used.
    """

    rate: float
    refused: float
    p50: float
    p99: float
    gateway_use: float
    server_use: float


class _Gateway:
    """What the images of one gateway wait for."""

    def __init__(self, environment: simpy.Environment, cluster: Cluster) -> None:
        self.loop = simpy.Resource(environment, 1)
        self.cores = simpy.Resource(environment, cluster.gateway_cores)
        self.budget = Budget(cluster.in_flight, "images")
        self.backlog = Backlog(_WAIT, lambda: float(environment.now))
        self.waiting: list[simpy.Event] = []
        self.calls = 0


class _Server:
    """A model server."""

    def __init__(self, cores: simpy.Resource) -> None:
        self.cores = cores
        self.calls = 0


class Simulation:
    """One run.

    Args:
        cluster: The machines; at least one gateway and one slot.
        costs: Of an image.
        hit_rate: Part of the images that Redis has.
        seed: Of what is drawn.
        population: In place of `hit_rate`: so many images are drawn by popularity, the r-th in proportion to 1/r, and
            gateways remember all that they have answered. An image's first hit writes the answer, which costs what a
            hit in Redis does; later ones find it written.
    """

    def __init__(
        self, cluster: Cluster, costs: Costs, hit_rate: float = 0.0, seed: int = 0, population: int = 0
    ) -> None:
        self._cluster, self._costs, self._hit_rate = cluster, costs, hit_rate
        self._chance = random.Random(seed)
        self._popularity = list(accumulate(1 / rank for rank in range(1, population + 1)))
        self._known: dict[int, simpy.Event] = {}
        self._written: set[int] = set()
        self._environment = simpy.Environment()
        self._gateways = [_Gateway(self._environment, cluster) for _ in range(cluster.gateways)]
        own = [simpy.Resource(self._environment, cluster.server_cores) for _ in range(cluster.servers)]
        self._servers = [_Server(cores) for cores in ([self._gateways[0].cores] if cluster.shared else own)]
        # Spent on an image before it is admitted or refused: while next to nothing is found, gateways do not look.
        self._lookup = costs.hit if hit_rate >= _WORTH or population else costs.memory_hit
        self._latencies: list[float] = []
        self._refused = 0
        self._counted_from = 0.0
        self._loop_busy = self._gateway_busy = self._server_busy = 0.0

    def offered(self, rate: float, seconds: float, *, even: bool = False) -> Simulated:
        """Let images arrive, `rate` a second, at random moments or evenly; the first quarter is not counted."""

        def arrivals() -> Process:
            while True:
                yield self._environment.timeout(1 / rate if even else self._chance.expovariate(rate))
                self._environment.process(self._image())

        self._environment.process(arrivals())
        self._counted_from = seconds / 4
        return self._run(seconds)

    def saturated(self, connections: int, seconds: float) -> Simulated:
        """Keep `connections` callers busy, each with one image at a time, and wait for the last answers, as `Run`."""

        def caller() -> Process:
            while self._environment.now < seconds:
                yield self._environment.process(self._image())

        return self._run(self._environment.all_of([self._environment.process(caller()) for _ in range(connections)]))

    def _run(self, until: "float | simpy.Event") -> Simulated:
        self._environment.run(until=until)
        seconds = float(self._environment.now)
        ranked, counted = sorted(self._latencies) or [0.0], seconds - self._counted_from
        loops = seconds * self._cluster.gateways
        return Simulated(
            rate=len(self._latencies) / counted,
            refused=self._refused / counted,
            p50=ranked[len(ranked) // 2],
            p99=ranked[int(len(ranked) * 0.99)],
            gateway_use=max(self._gateway_busy / loops / self._cluster.gateway_cores, self._loop_busy / loops),
            server_use=self._server_busy / seconds / self._cluster.servers / self._cluster.server_cores,
        )

    def _image(self) -> Process:
        begin = self._environment.now
        gateway, (hit, there) = self._chance.choice(self._gateways), self._drawn()
        if self._cluster.shared:
            beside = self._costs.caller + (self._costs.redis_miss if hit is None else self._costs.redis)
            yield from _worked(self._environment, gateway.cores, beside)
        yield from self._on_loop(gateway, self._lookup if hit is None else hit)
        try:
            if hit is None:
                yield from self._computed(gateway)
                if there is not None:
                    there.succeed()
            elif there is not None:
                yield there  # another request computes it
        except Overloaded:
            self._refused += self._environment.now >= self._counted_from
            return
        if self._environment.now >= self._counted_from:
            self._latencies.append(self._environment.now - begin)

    def _drawn(self) -> tuple[float | None, simpy.Event | None]:
        """Draw an image.

        Returns:
            What a hit costs the event loop, None for a miss; and what tells that the vector is there, where others may
            wait for it.
        """
        if not self._popularity:
            return (self._costs.hit if self._chance.random() < self._hit_rate else None), None
        (image,) = self._chance.choices(range(len(self._popularity)), cum_weights=self._popularity)
        if image not in self._known:
            self._known[image] = self._environment.event()
            return None, self._known[image]
        cost = self._costs.memory_hit if image in self._written else self._costs.hit
        self._written.add(image)
        return cost, self._known[image]

    def _on_loop(self, gateway: _Gateway, seconds: float) -> Process:
        with gateway.loop.request() as turn:
            yield turn
            yield from _worked(self._environment, gateway.cores, seconds)
        self._loop_busy += seconds
        self._gateway_busy += seconds

    def _computed(self, gateway: _Gateway) -> Process:
        """Admit, decode and infer one image that has been looked up.

        Raises:
            Overloaded: The gateway refuses it.
        """
        with gateway.budget.hold(1), gateway.backlog:
            yield from self._on_loop(gateway, max(0.0, self._costs.miss - self._costs.decode - self._lookup))
            yield from _worked(self._environment, gateway.cores, self._costs.decode)
            self._gateway_busy += self._costs.decode
            done = self._environment.event()
            gateway.waiting.append(done)
            self._begin_calls(gateway)
            yield done

    def _begin_calls(self, gateway: _Gateway) -> None:
        slots = self._cluster.slots * len(self._servers)
        while gateway.waiting and (
            gateway.calls < slots or (gateway.calls == slots and len(gateway.waiting) >= _ENOUGH)
        ):
            batch, gateway.waiting = (
                gateway.waiting[: self._cluster.max_batch],
                gateway.waiting[self._cluster.max_batch :],
            )
            gateway.calls += 1
            self._environment.process(self._call(gateway, batch))

    def _call(self, gateway: _Gateway, batch: list[simpy.Event]) -> Process:
        server = min(self._servers, key=lambda one: one.calls)
        work = len(batch) * self._cluster.inference
        server.calls += 1
        yield from _worked(self._environment, server.cores, work)
        server.calls -= 1
        gateway.calls -= 1
        self._server_busy += work
        for done in batch:
            done.succeed()
        self._begin_calls(gateway)


def _worked(environment: simpy.Environment, cores: simpy.Resource, seconds: float) -> Process:
    """Use one core, in slices between which others have their turn."""
    whole = int(seconds / _SLICE)
    for part in [*[_SLICE] * whole, max(0.0, seconds - whole * _SLICE)]:
        with cores.request() as turn:
            yield turn
            yield environment.timeout(part)
