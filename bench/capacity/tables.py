"""The tables of docs/capacity.md."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bench.capacity.costs import DIMENSIONS, Costs, Survey, facts, inferences, redis_bytes, traffic
from bench.capacity.events import TOLERANCE, Check, Outcome
from bench.capacity.limits import (
    Node,
    Part,
    Parts,
    breaks_at,
    first,
    full_at,
    grown_parts,
    plan,
    shipped_parts,
)
from bench.capacity.shipped import Shipped, Workload, surviving

HIT_RATES = (0.0, 0.5, 0.9, 0.99)
RATES = (100_000, 1_000_000)
_MILLION_HOURS = 1e6 / 3600
_WEEKS_OF_A_MONTH = 30 / 7


def core_hours(costs: Costs, hit_rate: float) -> dict[str, float]:
    """Return the core-hours of a million images, by part."""
    seconds = {
        "gateways": costs.gateway(hit_rate),
        "model servers": (1 - hit_rate) * costs.inference,
        "Redis": costs.valkey(hit_rate),
    }
    return {name: _MILLION_HOURS * value for name, value in seconds.items()}


def million(costs: Costs, survey: Survey, rates: Mapping[str, float]) -> str:
    """Tabulate what a million images cost."""
    gpus = [f"GPU-hours instead ({name})" for name in rates]
    ways = list(traffic(costs, survey, 0.0))
    rows = []
    for hit_rate in HIT_RATES:
        missed = _MILLION_HOURS * (1 - hit_rate)
        cells = [f"{value:.3f}" for value in core_hours(costs, hit_rate).values()]
        cells[2:2] = [f"{missed / rate:.3f}" for rate in rates.values()]
        cells += [f"{redis_bytes(1e6 * (1 - hit_rate), DIMENSIONS) / 1e9:.2f}"]
        cells += [f"{1e6 * each / 1e9:.1f}" for each in traffic(costs, survey, hit_rate).values()]
        rows.append([f"{hit_rate:.0%}", *cells])
    hours = ["gateway core-hours", "model server core-hours", *gpus, "Redis core-hours", "GB new in Redis"]
    return _table(["hit rate", *hours, *(f"GB between {way}" for way in ways)], rows)


def prices(costs: Costs, survey: Survey, rates: Mapping[str, float], given: Mapping[str, float]) -> str:
    """Tabulate what a million images cost with the user's prices: of `core`, `gpu`, `redis`, `network`.

    Those are of a core for an hour, of a GPU for an hour, of a GB of Redis for a month, and of a GB over the network.
    """
    rows = []
    for hit_rate in HIT_RATES:
        hours, missed = core_hours(costs, hit_rate), 1e6 * (1 - hit_rate)
        stored = redis_bytes(missed, DIMENSIONS) / 1e9 / _WEEKS_OF_A_MONTH
        shared = given["core"] * (hours["gateways"] + hours["Redis"]) + given["redis"] * stored
        shared += given["network"] * 1e6 * sum(traffic(costs, survey, hit_rate).values()) / 1e9
        on_gpus = [shared + given["gpu"] * missed / rate / 3600 for rate in rates.values()]
        rows.append(
            [
                f"{hit_rate:.0%}",
                *(f"{cost:.2f}" for cost in [shared + given["core"] * hours["model servers"], *on_gpus]),
            ]
        )
    return _table(["hit rate", "on CPUs", *(f"on GPUs ({name})" for name in rates)], rows)


def models(results: Sequence[Mapping[str, Any]]) -> str:
    """Tabulate what model servers need for a million misses, by model, precision, engine; of the first that has it."""
    found: dict[tuple[str, ...], list[str]] = {}
    for result in results:
        about = result["about"]
        for each in inferences(result):
            hours = f"{_MILLION_HOURS * each.milliseconds / 1e3:.2f}"
            measured = [f"{each.milliseconds:.1f}", hours, f"{about['processor']}, {about['commit']}"]
            found.setdefault((each.model, each.precision, each.engine), measured)
    rows = [[*key, *found[key]] for key in sorted(found)]
    return _table(
        ["model", "precision", "engine", "core ms an image", "core-hours of a million misses", "measured on"], rows
    )


def load(result: Mapping[str, Any]) -> str:
    """Say how the processor time of a miss depends on the load, where that was measured."""
    found = facts(result)
    full, steady = (found.get(key, {}).get("CPU ms per image") for key in ("P4 mobilenet_v2", "P6"))
    if full is None or steady is None:
        return "Processor time is that of a full machine."
    return (
        f"Processor time is that of a full machine, {full:.1f} ms for a miss. At 70 % of its peak it is {steady:.1f} "
        "ms (P6): batches are smaller, and watching goes on. A cluster that is never full pays that for each image."
    )


def shipped_values(shipped: Shipped) -> str:
    """Tabulate what the manifests set."""

    def pods(work: Workload, scaled: str) -> str:
        return f"{work.replicas}{scaled.format(most=work.most)}"

    def cores(work: Workload, used: str) -> str:
        most = "" if work.limit == float("inf") else f", {work.limit:g} at most"
        return f"{work.requested:g} sure{most}; {used}"

    budget = f"{shipped.in_flight} images and {shipped.body_bytes / 1e6:,.0f} MB of bodies in flight"
    threads = f"computes on {shipped.server_threads}, {shipped.batch_threads} batches at a time"
    vectors = f"{shipped.redis_bytes / redis_bytes(1, DIMENSIONS):,.0f} vectors of {DIMENSIONS} numbers"
    calls = f"{shipped.calls} calls; of each gateway {shipped.slots}, of at most {shipped.batch} images"
    rows = [
        [
            *("gateway", pods(shipped.gateway, ", autoscaled to {most} by CPU"), _gb(shipped.gateway.memory)),
            *(cores(shipped.gateway, f"{shipped.workers} event loop"), budget),
        ],
        [
            *("model server", pods(shipped.server, ", autoscaled to {most} by what waits"), _gb(shipped.server.memory)),
            *(cores(shipped.server, threads), calls),
        ],
        [
            *("the same with `gpu`", pods(shipped.gpu_server, ", {most}"), _gb(shipped.gpu_server.memory)),
            *(cores(shipped.gpu_server, "one GPU"), "the same"),
        ],
        [
            *("Redis", pods(shipped.redis, ""), _gb(shipped.redis.memory)),
            *(cores(shipped.redis, "uses one"), f"{_gb(shipped.redis_bytes)} for {vectors}"),
        ],
    ]
    return _table(["part", "pods", "memory of a pod", "cores of a pod", "and"], rows)


def shipped_rates(costs: Costs, shipped: Shipped, rates: Mapping[str, float]) -> str:
    """Tabulate the images a second at which each shipped part is full, and name the first."""

    def parts(hit_rate: float, *, scaled: bool, gpu: float = 0.0) -> Parts:
        paid = replace(costs, gpu=1 / gpu) if gpu else costs
        return lambda rate: shipped_parts(paid, shipped, hit_rate, rate, scaled=scaled, gpu=bool(gpu))

    def row(label: str, name: str, gpu: float = 0.0) -> list[str]:
        both = [
            [full_at(parts(hit_rate, scaled=scaled, gpu=gpu), name) for scaled in (False, True)]
            for hit_rate in HIT_RATES
        ]
        return [label, *(_rate(one) if one == most else f"{_rate(one)} → {_rate(most)}" for one, most in both)]

    def firsts(label: str, gpu: float = 0.0) -> list[str]:
        found = [
            [breaks_at(parts(hit_rate, scaled=scaled, gpu=gpu)) for scaled in (False, True)] for hit_rate in HIT_RATES
        ]
        cells = []
        for (one, its), (most, theirs) in found:
            names = _named(its) if _named(its) == _named(theirs) else f"{_named(its)} → {_named(theirs)}"
            cells.append(f"**{names}** {_rate(one)} → {_rate(most)}")
        return [f"**first, {label}**", *cells]

    slowest = min(rates, key=lambda name: rates[name])
    names = [part.name for part in shipped_parts(costs, shipped, 0.0, 1.0)]
    rows = [row(name, name) for name in names]
    rows[3:3] = [row(f"model servers: GPUs ({name})", "model servers: GPUs", rate) for name, rate in rates.items()]
    rows += [firsts("on CPUs"), firsts(f"with GPUs ({slowest})", rates[slowest])]
    return _table(["full at images/s", *(f"{hit_rate:.0%} hits" for hit_rate in HIT_RATES)], rows)


def shipped_said(costs: Costs, shipped: Shipped, planned: float) -> str:
    """Say what the shipped budgets, requests and memory mean for those rates."""
    vectors = shipped.redis_bytes / redis_bytes(1, DIMENSIONS)
    missed = 0.1 * planned
    server = breaks_at(lambda rate: shipped_parts(costs, shipped, 0.0, rate))[0]
    in_flight = shipped.gateway.replicas * shipped.in_flight
    calls = shipped.gateway.most * shipped.workers * shipped.slots
    sure = shipped.gateway.requested / shipped.gateway.limit
    said = {
        "Redis' memory": "is what fills first of all, and fails nothing: "
        f"it holds {vectors:,.0f} vectors. At {planned:,.0f} images/s with 90 % hits, {missed:,.0f} new ones a second, "
        f"a vector stays {vectors / missed / 60:,.0f} minutes, and not the {shipped.ttl / 86400:g} days of "
        f"`MICROTOME_REDIS_TTL`, which take at most {vectors / shipped.ttl:.2g} misses a second. A hit rate of "
        "90 % needs images that come again within that time, or a larger `--maxmemory`.",
        "Admission": f"refuses (429) once {in_flight:,} images are in flight in {shipped.gateway.replicas} gateways: "
        f"with misses alone at {server:,.0f} images/s that is after {in_flight / server:.1f} s of waiting, before the "
        "bound of 5 s is reached.",
        "Calls": f"are few: {shipped.gateway.most} gateways have {calls} under way at a model server when all wait, "
        f"{calls / shipped.calls:.0%} of its {shipped.calls} threads.",
        "Requests": f"are {sure:.0%} of the cores that a gateway may use, and {shipped.redis.requested:.0%} of the one "
        "that Redis uses: on full nodes the rates of those rows shrink by that. The autoscaler adds gateways once they "
        f"use {shipped.utilization:.0%} of what they request, which is {shipped.utilization * sure:.0%} of the limit.",
    }
    return "\n".join(f"* **{name}** {text}" for name, text in said.items())


def paper(costs: Costs, shipped: Shipped, survey: Survey, rates: Mapping[str, float]) -> str:
    """Tabulate clusters for `RATES`: how many of each, and what crosses the network."""
    ways = list(traffic(costs, survey, 0.0))
    rows = []
    for rate in RATES:
        for hit_rate in HIT_RATES:
            sizes = [plan(replace(costs, gpu=1 / each), shipped, hit_rate, rate) for each in rates.values()]
            bits = [8 * rate * each / 1e9 for each in traffic(costs, survey, hit_rate).values()]
            numbers = [sizes[0].gateways, *(size.gpus for size in sizes), sizes[0].shards, *bits]
            rows.append([f"{rate:,}", f"{hit_rate:.0%}", *(f"{number:,.0f}" for number in numbers)])
    gpus = [f"GPUs ({name})" for name in rates]
    head = ["images/s", "hit rate", f"gateways of {shipped.gateway.limit:g} cores", *gpus, "Redis shards"]
    return _table([*head, *(f"Gbit/s between {way}" for way in ways)], rows)


def uses(costs: Costs, shipped: Shipped, survey: Survey, node: Node, rate: float) -> str:
    """Tabulate the uses of what grows with a cluster of this rate, the most used first, and name what breaks first."""
    found = [grown_parts(costs, shipped, survey, node, hit_rate, rate) for hit_rate in HIT_RATES]
    ranked = sorted(range(len(found[0])), key=lambda number: -found[0][number].use)
    rows = [
        [found[0][number].name, found[0][number].basis, *(_percent(row[number].use) for row in found)]
        for number in ranked
    ]
    rows.append(["**breaks first**", "", *(_broken(row) for row in found)])
    rows.append(["**with settings raised**", "", *(_broken(_fixed(row)) for row in found)])
    return _table(["part", "its capacity is", *(f"{hit_rate:.0%} hits" for hit_rate in HIT_RATES)], rows)


def breaks(costs: Costs, shipped: Shipped, survey: Survey, node: Node, rates: Mapping[str, float]) -> str:
    """Tabulate the rate at which the first part breaks that no setting changes, by hit rate and by speed of a GPU."""
    rows = []
    for name, rate in rates.items():
        for hit_rate in HIT_RATES:
            parts = partial(grown_parts, replace(costs, gpu=1 / rate), shipped, survey, node, hit_rate)
            at, broken = breaks_at(_only_fixed(parts))
            size = plan(replace(costs, gpu=1 / rate), shipped, hit_rate, at)
            rows.append(
                [
                    name,
                    f"{hit_rate:.0%}",
                    _rate(at),
                    f"{_named(broken)} ({broken[0].basis})",
                    f"{size.gateways:,}",
                    f"{size.gpus:,}",
                ]
            )
    return _table(["GPU", "hit rate", "images/s", "breaks first", "gateways then", "GPUs then"], rows)


def check_lines(checks: Sequence[Check], about: Mapping[str, object]) -> str:
    """Tabulate simulated and measured figures."""
    rows = [
        [
            *(
                each.name,
                f"{each.simulated:,.0f} {each.unit}",
                f"{each.measured:,.0f} {each.unit}",
                f"{100 * each.error:+.0f} %",
            ),
            ("yes" if each.holds else "**no**") if each.judged else "not judged",
        ]
        for each in checks
    ]
    table = _table(["load", "simulated", "measured", "off by", f"within {TOLERANCE:.0%}"], rows)
    where = f"{about['cores']} cores of {about['processor']}, commit {about['commit']}"
    return f"{where}; others used {float(str(about['foreign'])):.0%} of the machine meanwhile.\n\n{table}"


def event_rows(outcomes: Sequence[Outcome], rate: float) -> str:
    """Tabulate what callers see at this rate in each event."""
    rows = []
    for each in outcomes:
        event, seen = each.event, each.seen
        left = f"{event.gateways} and {event.servers}"
        if seen is None:
            rows.append([event.name, left, f"{event.hit_rate:.0%}", "0", f"{rate:,.0f} (503)", "", "", "", ""])
            continue
        waits = [f"{1e3 * seen.p50:,.1f} ms", f"{1e3 * seen.p99:,.0f} ms"]
        cells = [
            f"{seen.rate:,.0f}",
            f"{seen.refused:,.0f}",
            *waits,
            f"{seen.gateway_use:.0%}",
            f"{seen.server_use:.0%}",
        ]
        rows.append([event.name, left, f"{event.hit_rate:.0%}", *cells])
    head = ["", "gateways and model servers left", "hit rate", "answered/s", "refused/s", "p50", "p99"]
    return _table([*head, "gateways busy", "model servers busy"], rows)


def survival(shipped: Shipped) -> str:
    """Say what use of each part outlives the loss of a zone."""
    works = {"gateways": shipped.gateway, "model servers": shipped.server}
    said = [
        f"{surviving(work.replicas)} of {work.replicas} {name} stay: plan them for at most "
        f"{surviving(work.replicas) / work.replicas:.0%} of their cores"
        for name, work in works.items()
    ]
    return f"When a zone of three is lost, {'; '.join(said)}."


def memory() -> str:
    """Tabulate the memory of a billion vectors in Redis."""
    rows = [
        [str(dimensions), *(f"{redis_bytes(1e9, dimensions, size) / 1e12:.2f} TB" for size in (4, 2, 1))]
        for dimensions in (512, 1280, 2048)
    ]
    return _table(["dimensions", "float32", "float16", "int8"], rows)


def _fixed(parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if part.basis != "a setting"]


def _only_fixed(parts: Callable[[float], Sequence[Part]]) -> Parts:
    return lambda rate: _fixed(parts(rate))


def _broken(parts: Sequence[Part]) -> str:
    most = first(parts)
    return f"**{_named(most)}**" if most[0].use >= 1 else f"**nothing**; the most is {_named(most)}"


def _named(parts: Sequence[Part]) -> str:
    return " and ".join(part.name for part in parts)


def _rate(rate: float) -> str:
    return "-" if rate == float("inf") else f"{float(f'{rate:.2g}'):,.0f}"


def _percent(use: float) -> str:
    return f"{use:,.0f} x" if use >= 2 else f"{use:.0%}" if use >= 0.1 else f"{use:.1%}"


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])
