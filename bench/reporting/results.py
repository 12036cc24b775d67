"""Results as files, and as a table."""

import json
import os
import platform
import statistics
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from bench.load.corpus import REPOSITORY, Corpus
from bench.ratios.measured import Effort
from bench.reporting.comparison import Comparison, cell

RESULTS = REPOSITORY / "bench" / "results"
BUSY = 0.05
"""A result is marked when other processes used more than this part of the machine."""


@dataclass(slots=True)
class Result:
    """One run of the benchmarks: where, when, of which commit, its comparisons, and its failures with their reasons."""

    about: dict[str, Any]
    comparisons: list[Comparison] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, corpus: Corpus, effort: Effort, *, complete: bool) -> Self:
        """Write down the circumstances; `complete` is a run of everything at length, which documentation shows."""
        return cls(
            {
                "complete": complete,
                "commit": _git("rev-parse", "--short", "HEAD"),
                "modified": bool(_git("status", "--porcelain", "--", "service", "modelserver", "exporter")),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "cores": len(os.sched_getaffinity(0)),
                "processor": _processor(),
                "python": platform.python_version(),
                "corpus": corpus.name,
                "photo_bytes": round(corpus.photo_bytes),
                "effort": asdict(effort),
            }
        )

    @property
    def foreign(self) -> float:
        """The part of the machine that others used, at the median."""
        parts = [part for each in self.comparisons for part in each.facts.get("foreign", [])]
        return statistics.median(parts) if parts else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        about = {**self.about, "foreign": round(self.foreign, 3), "busy_machine": self.foreign > BUSY}
        return {"about": about, "failed": self.failed, "comparisons": [each.as_json() for each in self.comparisons]}


def save(result: Result, directory: Path = RESULTS) -> Path:
    """Write `<date>-<commit>.json` and return its path; a run of the same day and commit replaces the one before.

    What is not complete goes to `<date>-<commit>-part.json`, so that it never replaces what is.
    """
    directory.mkdir(parents=True, exist_ok=True)
    part = "" if result.about["complete"] else "-part"
    path = directory / f"{result.about['date'][:10]}-{result.about['commit']}{part}.json"
    path.write_text(json.dumps(result.as_json(), indent=1) + "\n")
    return path


def newest(directory: Path) -> Path:
    """Return the newest complete result; if none is complete, the newest one.

    Raises:
        SystemExit: There is none.
    """
    results = {path: json.loads(path.read_text())["about"] for path in directory.glob("*.json")}
    if not results:
        raise SystemExit(f"Expected results in {directory}. Received none: run `make bench-full`.")
    return max(results, key=lambda path: (results[path].get("complete", False), results[path]["date"]))


def print_table(result: Result) -> None:
    """Print all ratios with target and whether it is met."""
    about = result.as_json()["about"]
    print(f"\ncommit {about['commit']}, {about['cores']} cores, {about['processor']}; median (least to most)")
    if about["busy_machine"]:
        print(f"BUSY MACHINE: others used {100 * about['foreign']:.0f} % of it; trust spreads, not medians")
    width = max((len(each.key) for each in result.comparisons), default=0)
    print(f"{'':{width}}{'measured':>30}{'by CPU':>27}{'target':>12}  {'verdict':13}")
    for each in result.comparisons:
        print(
            f"{each.key:{width}}{each.measured:>30}{cell(each.by_cpu):>27}{each.sought:>12}  {each.verdict:13}"
            f"{each.what}{f': {each.reason}' if each.reason else ''}"
        )
    for name, reason in result.failed.items():
        print(f"{name} could not be measured: {reason}")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip() or ("unknown" if words[0] == "rev-parse" else "")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
