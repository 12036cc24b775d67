"""`python -m bench.capacity [RESULT]`: write docs/capacity.md, its tables and plots.

From the manifests of deploy/kubernetes, from docs/capacity.json, and from a result of `make bench-full`, by default the
one that docs/benchmarks.md shows. With --check, simulation and measurement are compared and nothing is written: the
exit code is 1 where they differ by more than 15 %, and 2 where the machine was busy. With --measure, docs/capacity.json
is measured, in four minutes. With --price, the cost of a million images is printed.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.capacity import tables
from bench.capacity.costs import SURVEY, Costs, Survey, gpu_rates
from bench.capacity.events import checks, outcomes, planned_rate
from bench.capacity.limits import Node, grown_parts
from bench.capacity.shipped import Shipped
from bench.load.corpus import REPOSITORY
from bench.reporting.marks import fill
from bench.reporting.results import BUSY, RESULTS, newest

PAGE = REPOSITORY / "docs" / "capacity.md"
COST_PLOT, LIMIT_PLOT, EVENT_PLOT = (
    REPOSITORY / "docs" / f"capacity-{name}.svg" for name in ("costs", "limits", "events")
)
_NODE = Node()
_PRICES = ("core", "gpu", "redis", "network")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the options say; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.capacity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", nargs="?", type=Path, help="of make bench-full (the newest complete one)")
    parser.add_argument("--check", action="store_true", help="only compare simulation and measurement")
    parser.add_argument("--measure", action="store_true", help="measure docs/capacity.json")
    parser.add_argument(
        "--price", nargs="+", type=_price, metavar="NAME=NUMBER", help=f"print costs; {', '.join(_PRICES)}"
    )
    parser.add_argument("--node-cores", type=int, default=_NODE.cores, help="of a machine (%(default)s)")
    parser.add_argument("--node-gpus", type=int, default=_NODE.gpus, help="of a machine with GPUs (%(default)s)")
    parser.add_argument("--node-gbit", type=float, default=_NODE.gbit, help="of a machine's network (%(default)s)")
    options = parser.parse_args(arguments)
    if options.measure:
        from bench.capacity.measure import measure  # noqa: PLC0415, it starts servers

        measure()
        return 0
    path = options.result or newest(RESULTS)
    result = json.loads(path.read_text(encoding="utf-8"))
    if options.check:
        return check(result)
    rates = gpu_rates()
    costs = replace(Costs.measured(result), gpu=1 / min(rates.values()))
    if options.price:
        print(tables.prices(costs, Survey.read(), rates, {**dict.fromkeys(_PRICES, 0.0), **dict(options.price)}))
        return 0
    write(result, path, costs, rates, Node(options.node_cores, options.node_gpus, options.node_gbit))
    return 0


def check(result: Mapping[str, Any]) -> int:
    """Print how far simulation is from measurement; return 0 where it is near, 1 where not, 2 where none can say."""
    about, found = result["about"], checks(result, Costs.measured(result))
    print(tables.check_lines(found, about))
    if float(about["foreign"]) > BUSY:
        print(
            f"No check: others used {about['foreign']:.0%} of the machine. Expected at most {BUSY:.0%}: measure again."
        )
        return 2
    return 0 if all(each.holds for each in found) else 1


def write(result: Mapping[str, Any], path: Path, costs: Costs, rates: Mapping[str, float], node: Node) -> None:
    """Write the page and its plots."""
    from bench.capacity import plots  # noqa: PLC0415, matplotlib comes with `make bench`

    survey, shipped = Survey.read(), Shipped.read()
    others = [json.loads(each.read_text(encoding="utf-8")) for each in sorted(RESULTS.glob("*.json"), reverse=True)]
    on_gpus, seen, rate = f"{min(rates, key=lambda name: rates[name])}", {}, {}
    for name, gpu in (("On CPUs", False), (f"With GPUs ({on_gpus})", True)):
        rate[name], seen[name] = planned_rate(costs, shipped, gpu=gpu), outcomes(costs, shipped, gpu=gpu)
    planned = next(iter(rate.values()))
    parts = {
        "source": source(result, path, node),
        "million": tables.million(costs, survey, rates),
        "load": tables.load(result),
        "models": tables.models([result, *others]),
        "shipped": tables.shipped_values(shipped),
        "rates": tables.shipped_rates(costs, shipped, rates),
        "said": tables.shipped_said(costs, shipped, planned),
        "paper": tables.paper(costs, shipped, survey, rates),
        **{f"uses {each}": tables.uses(costs, shipped, survey, node, each) for each in tables.RATES},
        "breaks": tables.breaks(costs, shipped, survey, node, rates),
        "events": "\n\n".join(
            f"{name}, {rate[name]:,.0f} images/s offered:\n\n{tables.event_rows(each, rate[name])}"
            for name, each in seen.items()
        ),
        "survival": tables.survival(shipped),
        "check": tables.check_lines(checks(result, costs), result["about"]),
        "memory": tables.memory(),
    }
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), parts), encoding="utf-8")
    plots.plot_costs({f"{hits:.0%} hits": tables.core_hours(costs, hits) for hits in tables.HIT_RATES}, COST_PLOT)
    grown = {f"{hits:.0%} hits": partial(grown_parts, costs, shipped, survey, node, hits) for hits in (0.0, 0.9)}
    plots.plot_limits(grown, LIMIT_PLOT)
    plots.plot_events({name: (rate[name], each) for name, each in seen.items()}, EVENT_PLOT)
    print(f"written from {path.name}: {PAGE} and its plots")


def source(result: Mapping[str, Any], path: Path, node: Node) -> str:
    """Say what the figures come from."""
    about, survey = result["about"], json.loads(SURVEY.read_text(encoding="utf-8"))
    foreign = max(row["foreign"] for row in survey["rows"])
    return (
        f"From [`{path.name}`](../bench/results/{path.name}): {about['cores']} cores of {about['processor']}, photos "
        f"of {about['photo_bytes'] / 1e3:.0f} KB. From capacity.json: {survey['about']['processor']}, "
        f"{survey['about']['date'][:10]}, processor time while others used up to {foreign:.0%} of the machine. "
        f"Machines of a cluster are assumed to have {node.cores} cores, or {node.gpus} GPUs, and {node.gbit:g} Gbit/s."
    )


def _price(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    if name not in _PRICES:
        raise argparse.ArgumentTypeError(f"expected {', '.join(_PRICES)}, each =NUMBER; received {text!r}")
    return name, float(number)


if __name__ == "__main__":
    raise SystemExit(main())
