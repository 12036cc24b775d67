"""`python -m bench.report [RESULT]`: write tables and plots between the marks of docs/benchmarks.md.

Without a name the newest complete result of bench/results/ is shown. What a row is good for is read from
bench/gains.toml, and the reasons for missed targets from bench/obstacles.toml.
"""

import json
import re
import statistics
import sys
import tomllib
from pathlib import Path
from typing import Any

from bench.load.corpus import REPOSITORY
from bench.reporting.comparison import Comparison, cell
from bench.reporting.marks import fill
from bench.reporting.plots import plot_peers, plot_targets
from bench.reporting.results import RESULTS, newest

PAGE = REPOSITORY / "docs" / "benchmarks.md"
TARGETS_PLOT = REPOSITORY / "docs" / "benchmarks.svg"
PEERS_PLOT = REPOSITORY / "docs" / "benchmarks-peers.svg"
GAINS = REPOSITORY / "bench" / "gains.toml"
OBSTACLES = REPOSITORY / "bench" / "obstacles.toml"
UNKNOWN = "not known yet"
_NAME = re.compile(r"\{([^{}]+)\}")

Json = dict[str, Any]


def main(path: Path | None) -> None:
    """Write the page and the plots."""
    shown = path or newest(RESULTS)
    result = json.loads(shown.read_text())
    found = [Comparison.from_json(each) for each in result["comparisons"]]
    parts = {
        "circumstances": circumstances(shown, result),
        "gains": gains(tomllib.loads(GAINS.read_text())),
        "targets": targets(found, tomllib.loads(OBSTACLES.read_text())),
        "ratios": ratios(found),
        "facts": facts(found),
    }
    drawn = plot_peers(found, PEERS_PLOT)
    parts["peers"] = f"![Images a second of each]({PEERS_PLOT.name})" if drawn else "The result shown has none of them."
    PAGE.write_text(fill(PAGE.read_text(), parts))
    plot_targets(found, TARGETS_PLOT)
    print(f"written from {shown.name}: {PAGE} and its plots")


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


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
