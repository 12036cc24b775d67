"""Measure every backbone, and write docs/backbones.md from what was measured.

python docs/measure_backbones.py                  measures what backbones.json lacks
python docs/measure_backbones.py --again NAME …   measures these again
python docs/measure_backbones.py --page           only writes the page

`microtome layers` and `microtome export` do the work. backbones.json is written after every backbone, so that an
interrupted run can continue. An export that fails is shown on the page with its reason.
tests/unit/test_backbones_page.py checks the page against the data, and the data against the code's table.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from measuring import Json, Page, microtome, parser, table

from exporter.recipe.backbones import BACKBONES

HEAD = (
    "backbone", "input", "weights", "default cut", "map", "dimension", "up to the cut", "operations", "export",
    "of a processor", "memory", "on disk",
)  # fmt: skip
ABOUT = """# Backbones

{count} architectures, as `backbone:` in a recipe or as `microtome layers BACKBONE`. Made by
`python docs/measure_backbones.py` from [backbones.json](backbones.json), with random weights: trained ones cost the
same.

- *weights*: all of the architecture's, classifier included; *up to the cut* and *operations* (a multiply-add is two,
  for one image): what a cut there needs.
- *default cut*: the deepest feature map that a single tensor carries, as `microtome layers` tells below its list;
  *dimension*: of its average.
- *export*: seconds of `microtome export` for this one output, verification against Keras included. Rows measured so far
  leave TensorFlow's start out, a few seconds; a row measured again includes it; *of a processor*: the same of processor
  time, which other work on the machine moves less; *memory*: the process's largest resident size, TensorFlow's own half
  gigabyte included. Measured {machines}.{stale}
- *on disk*: the version's directory.

"""
OLD_MACHINE = "two CPU cores (AMD EPYC with AVX-512) that had other work, so that the seconds are upper bounds"
STALE = f"""
  An asterisk: measured before exports were made to need less (decision 13), on {OLD_MACHINE},
  so that less will do now."""
MARKS = ("", "†", "‡", "§", "¶")
"""Of the machines that the rows were measured on, in the order of the table."""


def page(found: Json) -> str:
    """Lay out the page: a row for every backbone of the code, in its order."""
    fresh = [found[name]["machine"] for name in BACKBONES if not _is_stale(found[name])]  # failures have none
    marks = dict(zip(dict.fromkeys(fresh), MARKS, strict=False))
    rows = [_row(name, found[name], marks) for name in BACKBONES]
    machines = "; ".join(f"with a {mark}, on {name}" if mark else f"on {name}" for name, mark in marks.items())
    old = any("export_seconds" in row and _is_stale(row) for row in found.values())
    about = ABOUT.format(count=len(rows), machines=machines, stale=STALE if old else "")
    return about + table(HEAD, rows) + "".join(_gaps(found))


PAGE = Page("backbones", page)
known = PAGE.known


def _is_stale(row: Mapping[str, Any]) -> bool:
    """Whether a row is from before exports needed less memory; such rows do not name their machine."""
    return "machine" not in row


def _gaps(found: Json) -> Iterator[str]:
    """Yield the reason for each dash."""
    dashes = {name: found[name]["failed"] for name in BACKBONES if "export_seconds" not in found[name]}
    if dashes:
        yield "\nA dash:\n\n"
    for name, reason in dashes.items():
        yield f"- {name}: {reason}\n"


def _row(name: str, found: Json, marks: Mapping[str, str]) -> tuple[str, ...]:
    flops = "?" if found["flops"] is None else f"{found['flops'] / 1e9:.2f} G"
    millions = [f"{found[key] / 1e6:.2f} M" for key in ("params", "params_to_cut")]
    shape = "x".join(str(side) for side in found["shape"])
    sides = "x".join(map(str, found["input"]))
    facts = (name, sides, millions[0], f"`{found['cut']}`", shape, str(found["dimension"]), millions[1], flops)
    if "export_seconds" not in found:
        return (*facts, "-", "-", "-", "-")
    memory = f"{found['peak_bytes'] / 1e9:.1f} GB"
    disk = f"{found['disk_bytes'] / 1e6:.0f} MB"
    mark = "*" if _is_stale(found) else marks[found["machine"]]
    processor = f"{found['cpu_seconds']:.0f} s" if "cpu_seconds" in found else "-"
    return (*facts, f"{found['export_seconds']:.0f} s", processor, f"{memory}{mark}", disk)


def measured(name: str, before: Json, machine: str) -> Json:
    """Find a backbone's default cut and export it there; a failure keeps what was known before, with the reason."""
    layers = microtome(["layers", name, "--all", "--json"])
    if layers.failed is not None:
        raise SystemExit(f"microtome layers {name}: {layers.failed}")
    points = json.loads(layers.printed)
    (cut,) = (point for point in points if point["default_cut"])
    pixels = BACKBONES[name].preprocessing
    facts = {
        "input": [pixels.height, pixels.width],
        "params": points[-1]["params"],
        "cut": cut["name"],
        "shape": cut["shape"][1:],
        "dimension": cut["dimension"],
        "params_to_cut": cut["params"],
        "flops": cut["flops"],
    }
    with tempfile.TemporaryDirectory() as folder:
        models, recipe = Path(folder, "models"), Path(folder, "recipe.yaml")
        outputs = [{"name": "top", "layer": cut["name"]}]
        model = {"name": name, "backbone": name, "weights": "random", "outputs": outputs}
        recipe.write_text(json.dumps({"models": [model]}), encoding="utf-8")  # JSON is YAML
        export = microtome(["export", str(recipe), "--out", str(models)])
        if export.failed is not None:
            return {**before, **facts, **export.facts}
        disk = sum(path.stat().st_size for path in Path(models, name).rglob("*") if path.is_file())
    cost = {"export_seconds": export.seconds, "cpu_seconds": export.cpu_seconds, "peak_bytes": export.peak_bytes}
    return {**facts, **cost, "disk_bytes": disk, "machine": machine}


if __name__ == "__main__":
    options = parser(__doc__, BACKBONES).parse_args()
    sys.exit(PAGE.measure(BACKBONES, lambda name: measured(name, known().get(name, {}), options.machine), options))
