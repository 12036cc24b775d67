"""What callers see when a zone is lost, the cache is cold, a release is rolled out; and how far simulation is off."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench.capacity.costs import Costs, facts
from bench.capacity.limits import HEADROOM, breaks_at, shipped_parts
from bench.capacity.shipped import Shipped, surviving
from bench.capacity.simulation import Cluster, Simulated, Simulation

TOLERANCE = 0.15
HIT_RATE = 0.9
"""Of the cluster whose events are simulated."""
_IMAGES = 25_000
"""Simulated in a row of the table, about."""
_HIT_CALLERS, _CALLERS, _POPULATION = 8, 32, 1000
"""Of the benchmark: callers of hits, callers of misses, images of its mixed load."""
_SEEDS = 4
"""Short runs differ by what is drawn, so that of a mixed load is the mean of a few."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happens to a cluster.

    Attributes:
        name: In words.
        gateways: Left.
        servers: Left.
        hit_rate: Meanwhile.
    """

    name: str
    gateways: int
    servers: int
    hit_rate: float = HIT_RATE


@dataclass(frozen=True, slots=True)
class Outcome:
    """An event and what callers see; None where nothing is left to answer."""

    event: Event
    seen: Simulated | None


def events(shipped: Shipped, *, gpu: bool) -> list[Event]:
    """Return the events of the shipped cluster, each with what of it is left."""
    gateway, server = shipped.gateway, shipped.gpu_server if gpu else shipped.server
    left = surviving(gateway.replicas), surviving(server.replicas)
    return [
        Event("as planned", gateway.replicas, server.replicas),
        Event("rolling deploy of gateways", gateway.lasting, server.replicas),
        Event("rolling deploy of model servers", gateway.replicas, server.lasting),
        Event("one of three zones lost", *left),
        Event("the same, with Redis in it: cache cold", *left, 0.0),
        Event("cache cold: new fingerprint, or Redis restarted", gateway.replicas, server.replicas, 0.0),
    ]


def planned_rate(costs: Costs, shipped: Shipped, *, gpu: bool) -> float:
    """Return the images a second at which the first part of the shipped cluster is used to `HEADROOM`."""
    return HEADROOM * breaks_at(lambda rate: shipped_parts(costs, shipped, HIT_RATE, rate, gpu=gpu))[0]


def outcomes(costs: Costs, shipped: Shipped, *, gpu: bool = False, images: int = _IMAGES) -> list[Outcome]:
    """Simulate all events at the planned rate, with the gateway's own admission and without autoscaling."""
    rate = planned_rate(costs, shipped, gpu=gpu)
    return [
        Outcome(event, _seen(costs, shipped, event, rate, images / rate, gpu=gpu)) for event in events(shipped, gpu=gpu)
    ]


def _seen(  # noqa: PLR0913, what differs
    costs: Costs, shipped: Shipped, event: Event, rate: float, seconds: float, *, gpu: bool
) -> Simulated | None:
    if not event.gateways or not event.servers:
        return None
    cluster = Cluster(
        event.gateways,
        int(shipped.gateway.limit),
        event.servers,
        1 if gpu else shipped.server_threads,
        costs.gpu if gpu else costs.inference,
        slots=shipped.slots,
        max_batch=shipped.batch,
        in_flight=shipped.in_flight,
    )
    return Simulation(cluster, costs, event.hit_rate).offered(rate, max(2.0, seconds))


@dataclass(frozen=True, slots=True)
class Check:
    """A simulated figure beside the measured one; `judged` ones must be within `TOLERANCE`."""

    name: str
    simulated: float
    measured: float
    unit: str = "images/s"
    judged: bool = True

    @property
    def error(self) -> float:
        """By which part of the measured figure the simulated one is larger."""
        return self.simulated / self.measured - 1

    @property
    def holds(self) -> bool:
        """Whether it is within the tolerance, where that is asked."""
        return not self.judged or abs(self.error) <= TOLERANCE


def checks(result: Mapping[str, Any], costs: Costs) -> list[Check]:
    """Simulate the machine of a result under its own loads, and compare.

    Costs are those of hits (P1, P2) and of MobileNetV2's misses (P4); rows that were measured at another time, or under
    another load, bring what a miss cost then.
    """
    found, cores = facts(result), int(result["about"]["cores"])
    seconds = float(result["about"]["effort"]["seconds"])
    in_memory = replace(costs, hit=costs.memory_hit)

    def simulated(
        row: Mapping[str, float], costs: Costs, hit_rate: float = 0.0, ending: str = "", **drawn: int
    ) -> Simulation:
        gateway, server = (row.get(f"{name} CPU ms{ending}") for name in ("gateway", "model server"))
        miss = costs.miss if gateway is None else max(gateway / 1e3, costs.decode)
        inference = costs.inference if server is None else server / 1e3
        machine = Cluster(1, cores, 1, cores, inference, shared=True)
        return Simulation(machine, replace(costs, miss=miss), hit_rate, **drawn)

    rows = {
        "P1": ("hits in memory", simulated({}, in_memory, 1.0), _HIT_CALLERS, seconds),
        "P2": ("hits in Redis", simulated({}, costs, 1.0), _HIT_CALLERS, seconds),
        "P4 mobilenet_v2": ("misses, MobileNetV2", simulated({}, costs), _CALLERS, 1.5 * seconds),
    }
    if heavy := found.get("P4 resnet50"):
        rows["P4 resnet50"] = ("misses, ResNet50", simulated(heavy, costs), _CALLERS, 1.5 * seconds)
    compared = [
        Check(f"{name} ({key})", simulation.saturated(callers, length).rate, found[key]["images/s"])
        for key, (name, simulation, callers, length) in rows.items()
    ]
    if filling := found.get("Zipf"):
        runs = [simulated(filling, costs, ending=", cold", seed=seed, population=_POPULATION) for seed in range(_SEEDS)]
        rates = [run.saturated(_CALLERS, seconds).rate for run in runs]
        compared.append(Check("a cache that fills (Zipf)", statistics.mean(rates), filling["images/s"]))
    if steady := found.get("P6"):
        offered = steady.get("offered/s", steady.get("images/s", 0.0))
        waited = simulated(steady, costs).offered(offered, 60.0, even=True)
        compared += [
            Check(f"{rank} of misses at 70 % of the peak (P6)", 1e3 * seen, steady[f"{rank} ms"], "ms", judged=False)
            for rank, seen in (("p50", waited.p50), ("p99", waited.p99))
        ]
    return compared
