"""The plots of docs/benchmarks.md, as SVG; the same result draws the same file."""

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from bench.reporting.comparison import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TICKS = (0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 3, 5, 10)
_ROUND, _MEDIAN, _OURS = "#4c72b0", "#c44e52", "#55a868"


def plot_targets(comparisons: list[Comparison], path: Path) -> None:
    """Draw each ratio over its target: every round a dot, the median a bar, 1 the target."""
    judged = [each for each in comparisons if each.target is not None and each.rounds]
    figure, axes = _axes(len(judged))
    for row, each in enumerate(reversed(judged)):
        # Above 1 is good on every line.
        over = [value / each.target if each.at_least else each.target / value for value in each.rounds if each.target]
        axes.scatter(over, [row] * len(over), s=14, color=_ROUND, zorder=2)
        axes.scatter(statistics.median(over), row, s=260, marker="|", color=_MEDIAN, zorder=3)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(judged)), [each.key for each in reversed(judged)])
    axes.set_xscale("log")
    axes.minorticks_off()
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in _TICKS if low <= tick <= high])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(axis="x", color="#dddddd", zorder=0)
    axes.set_xlabel("times the target (right of the line: met); dots are rounds, bars medians")
    _save(figure, path)


def plot_peers(comparisons: list[Comparison], path: Path) -> bool:
    """Draw images a second of each peer, and of ours in the same rounds; False if there are none."""
    groups: dict[str, list[tuple[str, list[float], str]]] = {}
    for each in comparisons:
        if each.key.startswith("P5 ") and not each.key.endswith(" limit") and "images/s, peer" in each.facts:
            peer = each.key.removeprefix("P5 ")
            groups[peer] = [
                (peer, each.facts["images/s, peer"], _ROUND),
                ("ours", each.facts["images/s"], _OURS),
            ]
    if not groups:
        return False
    figure, axes = _axes(sum(len(bars) + 1 for bars in groups.values()))
    places: dict[int, str] = {}
    for number, (name, values, colour) in enumerate(bar for bars in groups.values() for bar in [*bars, ("", [], "")]):
        if values:  # else the space between two peers
            places[-number] = name
            axes.barh(-number, statistics.median(values), color=colour, height=0.8)
            axes.plot([min(values), max(values)], [-number, -number], color="black", linewidth=1)
    axes.set_yticks(list(places), list(places.values()))
    axes.set_xlabel("images/s, cold, 32 callers; bars are medians, lines go from the least to the most")
    _save(figure, path)
    return True


def _axes(rows: int) -> "tuple[Figure, Axes]":
    import matplotlib as mpl  # noqa: PLC0415, tables need none

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "microtome"
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(figsize=(8, 0.3 * rows + 1.2))
    return figure, axes


def _save(figure: "Figure", path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
