"""Measure every backbone, and write docs/backbones.md from what was measured.

python docs/measure_backbones.py                  measures what backbones.json lacks
python docs/measure_backbones.py --again NAME …   measures these again
python docs/measure_backbones.py --page           only writes the page

`microtome layers` and `microtome export` do the work. backbones.json is written after every backbone, so that an
interrupted run can continue. An export that fails is shown on the page with its reason.
tests/unit/test_backbones_page.py checks the page against the data, and the data against the code's table.
"""

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from measuring import Json, Page, microtome, parser, table

from exporter.recipe.backbones import BACKBONES

HEAD = (
    "backbone", "input", "weights", "default cut", "map", "dimension", "up to the cut", "operations", "export",
    "of a processor", "memory", "on disk", "worst error",
)  # fmt: skip
ABOUT = """# Backbones

{count} architectures, as `backbone:` in a recipe or as `microtome layers BACKBONE`. Made by
`python docs/measure_backbones.py` from [backbones.json](backbones.json), with random weights: trained ones cost the
same.

- *weights*: all of the architecture's, classifier included; *up to the cut* and *operations* (a multiply-add is two,
  for one image): what a cut there needs.
- *default cut*: the deepest feature map that a single tensor carries, as `microtome layers` tells below its list;
  *dimension*: of its average.
- *export*: seconds of `microtome export` for this one output, TensorFlow's start and verification against Keras
  included; *of a processor*: the same of processor time, which other work on the machine moves less; *memory*: the
  process's largest resident size, TensorFlow's own half gigabyte included. Measured on {machines}.
- *on disk*: the version's directory.
- *worst error*: the largest difference from Keras on the same pixels, relative to the largest number of that vector,
  found by `microtome verify`, which builds the backbone again and compares the version as it was written. At most
  1e-4 is allowed, or what rounding explains, by Keras in float64. With random weights rounding alone moves the vectors
  of {chaotic} (Keras in float32 and in float64 differ by 18 % for the first, with batch norms folded or not), so their
  recipes here say `tolerance: 1`.

"""


def page(found: Json) -> str:
    """Lay out the page: a row for every backbone of the code, in its order."""
    machines = dict.fromkeys(found[name]["machine"] for name in BACKBONES if "machine" in found[name])
    rows = [_row(name, found[name]) for name in BACKBONES]
    about = ABOUT.format(count=len(rows), machines="; ".join(machines), chaotic=" and ".join(CHAOTIC))
    return about + table(HEAD, rows) + "".join(_gaps(found))


CHAOTIC = ("EfficientNetV2M", "EfficientNetV2L")
"""Whose random weights make rounding grow from layer to layer."""
PAGE = Page("backbones", page)
known = PAGE.known


def _gaps(found: Json) -> Iterator[str]:
    """Yield the reason for each dash."""
    dashes = {name: found[name]["failed"] for name in BACKBONES if "failed" in found[name]}
    if dashes:
        yield "\nA dash:\n\n"
    for name, reason in dashes.items():
        yield f"- {name}: {reason}\n"


def _row(name: str, found: Json) -> tuple[str, ...]:
    flops = "?" if found["flops"] is None else f"{found['flops'] / 1e9:.2f} G"
    millions = [f"{found[key] / 1e6:.2f} M" for key in ("params", "params_to_cut")]
    shape = "x".join(str(side) for side in found["shape"])
    sides = "x".join(map(str, found["input"]))
    facts = (name, sides, millions[0], f"`{found['cut']}`", shape, str(found["dimension"]), millions[1], flops)
    if "failed" in found:
        return (*facts, "-", "-", "-", "-", "-")
    times = [f"{found[key]:.0f} s" for key in ("export_seconds", "cpu_seconds")]
    sizes = (f"{found['peak_bytes'] / 1e9:.1f} GB", f"{found['disk_bytes'] / 1e6:.0f} MB")
    return (*facts, *times, *sizes, f"{found['worst_error']:.1e}")


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
        outputs: list[Json] = [{"name": "top", "layer": cut["name"]}]
        if name in CHAOTIC:
            outputs[0]["tolerance"] = 1
        model = {"name": name, "backbone": name, "weights": "random", "outputs": outputs}
        recipe.write_text(json.dumps({"models": [model]}), encoding="utf-8")  # JSON is YAML
        export = microtome(["export", str(recipe), "--out", str(models)])
        if export.failed is not None:
            return {**before, **facts, **export.facts}
        verify = microtome(["verify", str(models / name / "1"), "--json"])
        if verify.failed is not None:
            return {**before, **facts, **verify.facts}
        disk = sum(path.stat().st_size for path in Path(models, name).rglob("*") if path.is_file())
    cost = {"export_seconds": export.seconds, "cpu_seconds": export.cpu_seconds, "peak_bytes": export.peak_bytes}
    return {**facts, **cost, "disk_bytes": disk, "worst_error": _worst(verify.printed), "machine": machine}


def _worst(printed: str) -> float:
    """Return the largest error of the comparisons with Keras that `verify --json` has printed."""
    findings = json.loads(printed)["findings"]
    details = [
        finding["detail"] for finding in findings if finding["check"].endswith("equals Keras on the same pixels")
    ]
    return max(float(error) for detail in details for error in re.findall(r"^relative (\S+) of", detail))


if __name__ == "__main__":
    options = parser(__doc__, BACKBONES).parse_args()
    sys.exit(PAGE.measure(BACKBONES, lambda name: measured(name, known().get(name, {}), options.machine), options))
