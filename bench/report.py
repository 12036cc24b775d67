"""`python -m bench.report [RESULT [PART ...]]`: write tables and plots between the marks of docs/benchmarks.md.

Without a name the newest complete result of bench/results/ is shown. Rows of a partial run replace those of the
complete one, and the page says which these are. What a row is good for is read from
bench/gains.toml, and the reasons for missed targets from bench/obstacles.toml.
"""

import json
import re
import statistics
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.load.corpus import REPOSITORY
from bench.reporting.comparison import Comparison, cell
from bench.reporting.marks import fill
from bench.reporting.results import RESULTS, newest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE = REPOSITORY / "docs" / "benchmarks.md"
TARGETS_PLOT = REPOSITORY / "docs" / "benchmarks.svg"
PEERS_PLOT = REPOSITORY / "docs" / "benchmarks-peers.svg"
GAINS = REPOSITORY / "bench" / "gains.toml"
OBSTACLES = REPOSITORY / "bench" / "obstacles.toml"
UNKNOWN = "not known yet"
_NAME = re.compile(r"\{([^{}]+)\}")

_TICKS = (0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 3, 5, 10)
_ROUND, _MEDIAN, _OURS = "#4c72b0", "#c44e52", "#55a868"

Json = dict[str, Any]


def main(paths: Sequence[Path]) -> None:
    """Write the page and the plots from a complete result and from parts that were measured again later."""
    shown = list(paths) or [newest(RESULTS)]
    rows: dict[str, Comparison] = {}
    about = []
    for path in shown:
        result = json.loads(path.read_text())
        mine = {each["key"]: Comparison.from_json(each) for each in result["comparisons"]}
        said = circumstances(path, result)
        about.append(f"{', '.join(mine)}: {said}" if rows else said)
        rows |= mine
    found = list(rows.values())
    parts = {
        "circumstances": "\n\n".join(about),
        "gains": gains(tomllib.loads(GAINS.read_text())),
        "targets": targets(found, tomllib.loads(OBSTACLES.read_text())),
        "ratios": ratios(found),
        "facts": facts(found),
    }
    drawn = plot_peers(found, PEERS_PLOT)
    parts["peers"] = f"![Images a second of each]({PEERS_PLOT.name})" if drawn else "The result shown has none of them."
    PAGE.write_text(fill(PAGE.read_text(), parts))
    plot_targets(found, TARGETS_PLOT)
    print(f"written from {', '.join(path.name for path in shown)}: {PAGE} and its plots")


def circumstances(path: Path, result: Json) -> str:
    """Return where and when the result was measured, what is missing, and whether the machine was busy."""
    about, effort = result["about"], result["about"]["effort"]
    where = (
        f"Commit {about['commit']}{' with changes' if about['modified'] else ''}, {about['date'][:10]}, "
        f"{about['cores']} cores of {about['processor']}, corpus {about['corpus']} "
        f"({about['photo_bytes'] / 1000:.0f} KB a photo), {effort['rounds']} rounds of {effort['seconds']:g} s "
        f"([`{path.name}`](../bench/results/{path.name}))."
    )
    lines = [where]
    if about["busy_machine"]:
        lines += ["", f"**Measured on a busy machine: others used {about['foreign']:.0%} of it. Not to be quoted.**"]
    failed = [f"* {name} could not be measured: {reason}" for name, reason in result["failed"].items()]
    lines += ["", *failed] if failed else []
    return "\n".join(lines)


def gains(sentences: dict[str, str]) -> str:
    """Return the table of what a user gains from each row."""
    return "\n".join(
        ["| | what a user gains |", "|---|---|", *(f"| {key} | {text} |" for key, text in sentences.items())]
    )


def targets(comparisons: list[Comparison], obstacles: dict[str, str]) -> str:
    """Return the table of targets, with the reasons for missed ones."""
    rows = ["| | target | measured | verdict | reason |", "|---|---|---|---|---|"]
    for each in comparisons:
        if each.target is not None:
            way = "" if each.verdict == "met" else each.reason or obstacle(each, obstacles)
            rows.append(f"| {each.key} | {each.sought} | {each.measured} | {each.verdict} | {way} |")
    return "\n".join(rows)


def obstacle(missed: Comparison, obstacles: dict[str, str]) -> str:
    """Return the reason for a missed target; `{name}` in the text is the median of that number behind the ratio."""
    medians = {name: cell([statistics.median(values)]) for name, values in missed.facts.items() if values}
    return _NAME.sub(lambda found: medians.get(found[1], "?"), obstacles.get(missed.key, UNKNOWN))


def ratios(comparisons: list[Comparison]) -> str:
    """Return the table of all comparisons, with a target or not."""
    rows = ["| | | measured | by CPU |", "|---|---|---|---|"]
    for each in comparisons:
        measured = each.measured if each.rounds else f"not measured: {each.reason}"
        rows.append(f"| {each.key} | {each.what} | {measured} | {cell(each.by_cpu)} |")
    return "\n".join(rows)


def facts(comparisons: list[Comparison]) -> str:
    """Return the numbers behind the ratios, folded away."""
    rows = ["<details><summary>The numbers behind</summary>\n", "| | | median (least to most) |", "|---|---|---|"]
    for each in comparisons:
        rows += [f"| {each.key} | {name} | {cell(values)} |" for name, values in each.facts.items()]
    return "\n".join([*rows, "\n</details>"])


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


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
