"""`python -m bench.report [RESULT...]`: write tables and plots of results between the marks of docs/benchmarks.md.

Without names, the newest result of bench/results/; several are merged, later ones replacing what they measured anew.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from bench.comparison import cell
from bench.corpus import REPOSITORY
from bench.results import RESULTS

PAGE = REPOSITORY / "docs" / "benchmarks.md"
PLOT = REPOSITORY / "docs" / "benchmarks.svg"
_MARKED = re.compile(r"(<!-- results -->\n).*?(<!-- end -->)", re.DOTALL)

Json = dict[str, Any]


def main(paths: list[Path]) -> None:
    """Write the page and the plot."""
    results = [json.loads(path.read_text()) for path in paths or [max(RESULTS.glob("*.json"))]]
    text = PAGE.read_text()
    PAGE.write_text(_MARKED.sub(lambda found: found[1] + markdown(results) + found[2], text))
    plot([each for result in results for each in result["comparisons"]], PLOT)
    print(f"written: {PAGE} and {PLOT}")


def markdown(results: list[Json]) -> str:
    """Return all tables."""
    parts = []
    for result in results:
        parts += [circumstances(result["about"]), ratios(result["comparisons"]), "", facts(result["comparisons"]), ""]
        parts += [f"Could not be measured: {', '.join(result['failed'])}.\n"] if result["failed"] else []
    return "\n".join(parts)


def circumstances(about: Json) -> str:
    """Say where and when, and whether to believe it."""
    busy = (
        f" **Measured on a busy machine: other processes used {about['foreign']:.0%} of it. Not to be quoted.**"
        if about["busy_machine"]
        else ""
    )
    return (
        f"Commit {about['commit']}, {about['date'][:10]}, {about['cores']} cores of {about['processor']}, corpus "
        f"{about['corpus']} ({about['photo_bytes'] / 1000:.0f} KB a photo), {about['effort']['rounds']} rounds of "
        f"{about['effort']['seconds']:g} s.{busy}\n"
    )


def ratios(comparisons: list[Json]) -> str:
    """Return the table of targets."""
    rows = ["| | | measured | by CPU | target | |", "|---|---|---|---|---|---|"]
    for each in comparisons:
        target = f"{'≥' if each['at_least'] else '≤'} {each['target']:g}{each['unit']}"
        measured, by_cpu = cell(each["rounds"], each["unit"]), cell(each["by_cpu"])
        rows.append(f"| {each['key']} | {each['what']} | {measured} | {by_cpu} | {target} | {each['verdict']} |")
    return "\n".join(rows)


def facts(comparisons: list[Json]) -> str:
    """Return the numbers behind the ratios, folded away."""
    rows = ["<details><summary>The numbers behind</summary>\n", "| | | median (least to most) |", "|---|---|---|"]
    for each in comparisons:
        rows += [f"| {each['key']} | {name} | {cell(values)} |" for name, values in each["facts"].items()]
    return "\n".join([*rows, "\n</details>"])


def plot(comparisons: list[Json], path: Path) -> None:
    """Draw each ratio over its target: every round a dot, the median a bar, 1 the target."""
    import matplotlib as mpl  # noqa: PLC0415, tables need none

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "microtome"  # the same result draws the same file
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(figsize=(8, 0.4 * len(comparisons) + 1.2))
    for row, each in enumerate(reversed(comparisons)):
        # Above 1 is good on every line.
        over = [value / each["target"] if each["at_least"] else each["target"] / value for value in each["rounds"]]
        axes.scatter(over, [row] * len(over), s=14, color="#4c72b0", zorder=2)
        axes.scatter(sorted(over)[len(over) // 2], row, s=260, marker="|", color="#c44e52", zorder=3)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(comparisons)), [each["key"] for each in reversed(comparisons)])
    axes.set_xscale("log")
    axes.set_xlabel("times the target (right of the line: met); dots are rounds, bars medians")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
