"""A queueing simulation in SimPy: images arrive, gateways look them up and decode misses, and servers batch them.

Cores are the resource. On one machine gateway and model server share them; in a cluster each has its own.
"""

import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

from bench.capacity.costs import Costs

Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True, slots=True)
class Cluster:
    """The machines.

    Attributes:
        gateway_cores: Cores of all gateways.
        server_slots: Batches that run at a time: GPUs, or cores.
        inference: Seconds of one slot for one image.
        shared: Whether gateways and model server share `gateway_cores`, as on a laptop.
        max_batch: Images in a batch at most.
    """

    gateway_cores: int
    server_slots: int
    inference: float
    shared: bool = False
    max_batch: int = 32


@dataclass(frozen=True, slots=True)
class Simulated:
    """The result: images a second, seconds at two percentiles, and the use of each part (0 to 1)."""

    rate: float
    p50: float
    p99: float
    gateway_use: float
    server_use: float


class Simulation:
    """One run of `seconds`, of which the first tenth is not counted."""

    def __init__(self, cluster: Cluster, costs: Costs, hit_rate: float, seed: int = 0) -> None:
        self._cluster, self._costs, self._hit_rate = cluster, costs, hit_rate
        self._chance = random.Random(seed)
        self._environment = simpy.Environment()
        self._cores = simpy.Resource(self._environment, cluster.gateway_cores)
        self._slots = self._cores if cluster.shared else simpy.Resource(self._environment, cluster.server_slots)
        self._queue = simpy.Store(self._environment)
        self._latencies: list[float] = []
        self._counted_from = 0.0
        self._gateway_busy = self._server_busy = 0.0

    def offered(self, rate: float, seconds: float) -> Simulated:
        """Let images arrive at random moments, `rate` a second."""

        def arrivals() -> Process:
            while True:
                yield self._environment.timeout(self._chance.expovariate(rate))
                self._environment.process(self._image())

        self._environment.process(arrivals())
        return self._run(seconds)

    def saturated(self, connections: int, seconds: float) -> Simulated:
        """Keep `connections` callers busy, each with one image at a time."""

        def caller() -> Process:
            while True:
                yield self._environment.process(self._image())

        for _ in range(connections):
            self._environment.process(caller())
        return self._run(seconds)

    def _run(self, seconds: float) -> Simulated:
        for _ in range(self._cluster.server_slots):
            self._environment.process(self._server())
        self._counted_from = seconds / 10
        self._environment.run(until=seconds)
        ranked, counted = sorted(self._latencies) or [0.0], seconds - self._counted_from
        return Simulated(
            rate=len(self._latencies) / counted,
            p50=ranked[len(ranked) // 2],
            p99=ranked[int(len(ranked) * 0.99)],
            gateway_use=self._gateway_busy / seconds / self._cluster.gateway_cores,
            server_use=self._server_busy / seconds / self._cluster.server_slots,
        )

    def _image(self) -> Process:
        begin = self._environment.now
        hit = self._chance.random() < self._hit_rate
        work = self._costs.hit if hit else self._costs.miss
        with self._cores.request() as turn:
            yield turn
            yield self._environment.timeout(work)
            self._gateway_busy += work
        if not hit:
            done = self._environment.event()
            yield self._queue.put(done)
            yield done
        if begin >= self._counted_from:
            self._latencies.append(self._environment.now - begin)

    def _server(self) -> Process:
        """Take the waiting images, up to a batch, when a slot is free, so that batches grow with the load."""
        while True:
            batch = [(yield self._queue.get())]
            with self._slots.request() as turn:
                yield turn
                while self._queue.items and len(batch) < self._cluster.max_batch:
                    batch.append((yield self._queue.get()))
                work = len(batch) * self._cluster.inference
                yield self._environment.timeout(work)
                self._server_busy += work
            for done in batch:
                done.succeed()
