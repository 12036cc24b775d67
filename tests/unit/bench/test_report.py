"""The page: which result it shows, what it says of targets, and what happens to results of earlier kinds."""

import json
import tomllib
from pathlib import Path

import pytest

from bench.report import GAINS, OBSTACLES, PAGE, UNKNOWN, circumstances, ratios, targets
from bench.reporting.comparison import Comparison
from bench.reporting.marks import fill
from bench.reporting.results import RESULTS, newest

ABOUT = {
    "commit": "abc",
    "modified": False,
    "date": "2026-01-02T03:04:05+00:00",
    "cores": 2,
    "processor": "AMD EPYC",
    "corpus": "examples",
    "photo_bytes": 40_000,
    "effort": {"rounds": 3, "seconds": 2.0},
    "foreign": 0.0,
    "busy_machine": False,
    "complete": True,
}
MET = Comparison("P1", "a ÷ b", 0.9, at_least=True, rounds=[0.95])
MISSED = Comparison("P2", "c ÷ d", 0.6, at_least=True, rounds=[0.4])
FAILED = Comparison("P9", "e ÷ f", 1.5, at_least=True, rounds=[], reason="no such processor")
TOLD = Comparison("Zipf", "g ÷ h", None, at_least=True, rounds=[2.0])


def write(directory: Path, name: str, **about: object) -> Path:
    """Write a result with two comparisons."""
    path = directory / f"{name}.json"
    found = [MET.as_json(), MISSED.as_json()]
    path.write_text(json.dumps({"about": {**ABOUT, **about}, "failed": {}, "comparisons": found}))
    return path


def test_the_newest_complete_result_is_shown(tmp_path: Path) -> None:
    """A later part of one, or an earlier complete one, is not."""
    write(tmp_path, "early", date="2026-01-01")
    shown = write(tmp_path, "shown", date="2026-01-02")
    write(tmp_path, "part", date="2026-01-03", complete=False)
    assert shown == newest(tmp_path)


def test_without_results_it_is_told_what_to_do(tmp_path: Path) -> None:
    """Nothing is made up."""
    with pytest.raises(SystemExit, match="make bench-full"):
        newest(tmp_path)


def test_only_what_is_not_met_is_explained() -> None:
    """By the file of obstacles, by the reason it was not measured, or as not known; without a target, not at all."""
    table = targets([MET, MISSED, FAILED, TOLD], {"P1": "nothing", "P2": "the framework"})
    rows = table.splitlines()[2:]
    assert ["| P1 | ≥ 0.9 | 0.95 | met |  |", "| P2 | ≥ 0.6 | 0.40 | not met | the framework |"] == rows[:2]
    assert "| P9 | ≥ 1.5 | - | not measured | no such processor |" == rows[2]
    assert 3 == len(rows)
    assert UNKNOWN in targets([MISSED], {})


def test_an_obstacle_is_told_with_the_numbers_of_the_run() -> None:
    """So that a text holds for the next run too; a number that the run lacks is no reason to show nothing."""
    missed = Comparison("P2", "c ÷ d", 0.6, at_least=True, rounds=[0.4], facts={"model.export() ms": [0.5, 0.3, 0.4]})
    assert "0.40 ms of ? ms" in targets([missed], {"P2": "{model.export() ms} ms of {bare CPU ms} ms"})


def test_what_could_not_be_measured_has_a_row_that_says_why() -> None:
    """A peer that fails is not left out."""
    assert "| P9 | e ÷ f | not measured: no such processor | - |" == ratios([FAILED]).splitlines()[-1]


def test_a_busy_machine_is_said_so(tmp_path: Path) -> None:
    """Above the tables, so that the figures are not quoted; what failed is named there too."""
    path = write(tmp_path, "busy", busy_machine=True, foreign=0.4)
    told = circumstances(path, {**json.loads(path.read_text()), "failed": {"start": "no Valkey"}})
    assert "**Measured on a busy machine: others used 40% of it." in told
    assert "* start could not be measured: no Valkey" in told


def test_a_page_is_filled_between_its_marks_and_nowhere_else() -> None:
    """Again and again; a part that has no place is told."""
    page = "head\n<!-- a -->\nold\n<!-- end -->\nmiddle\n<!-- b -->\n<!-- end -->\n"
    filled = fill(page, {"a": "new", "b": "other"})
    assert "head\n<!-- a -->\nnew\n<!-- end -->\nmiddle\n<!-- b -->\nother\n<!-- end -->\n" == filled
    assert filled == fill(filled, {"a": "new", "b": "other"})
    with pytest.raises(ValueError, match="<!-- c -->"):
        fill(page, {"c": "lost"})


def test_the_page_and_the_files_beside_it_fit_together() -> None:
    """The page has a place for each part, results can be read, and obstacles are texts of targets there are."""
    page = PAGE.read_text()
    assert page != fill(page, dict.fromkeys(("circumstances", "gains", "targets", "ratios", "facts", "peers"), "x"))
    shown = newest(RESULTS)
    assert shown.name in page
    found = [Comparison.from_json(each) for each in json.loads(shown.read_text())["comparisons"]]
    assert ratios(found)
    gains = tomllib.loads(GAINS.read_text())
    assert {each.key.split()[0] for each in found} <= gains.keys() | {"stream"}
    assert all(text.endswith(".") and f"| {text} |" in page for text in gains.values())
    for key, text in tomllib.loads(OBSTACLES.read_text()).items():
        assert key.startswith("P"), key
        assert "\n" not in text, key
