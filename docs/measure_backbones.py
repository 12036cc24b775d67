"""Measure every backbone, and write docs/backbones.md from what was measured.

python docs/measure_backbones.py                  measures what backbones.json lacks, each in a process of its own
python docs/measure_backbones.py --again NAME …   measures these anew
python docs/measure_backbones.py --leave NAME …   builds these, but does not export them
python docs/measure_backbones.py --page           only writes the page

What is measured goes into backbones.json after every backbone, so that an interrupted run goes on where it was.
tests/unit/test_backbones_page.py holds the page to the data, and the data to the table of the code.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter.backbones import BACKBONES
from exporter.tensorflow_ready import tensorflow_ready

PAGE = Path(__file__).with_name("backbones.md")
DATA = Path(__file__).with_name("backbones.json")
HEAD = (
    "backbone", "input", "weights", "default cut", "map", "dimension", "up to the cut", "operations", "export",
    "memory", "on disk",
)  # fmt: skip
ABOUT = """# Backbones

{count} architectures, as `backbone:` in a recipe or as `microtome layers BACKBONE`. Made by
`python docs/measure_backbones.py` from [backbones.json](backbones.json), with random weights: trained ones cost the
same.

- *weights*: all of the architecture's, classifier included; *up to the cut* and *operations* (a multiply-add is two,
  for one image): what a cut there needs.
- *default cut*: the deepest feature map that a single tensor carries, as `microtome layers` lists it; *dimension*: of
  its average.
- *export*: seconds of `microtome export` for this one output, from building to publication, verification against
  Keras included; *memory*: the process's largest resident size, TensorFlow's own half gigabyte included; on {machine}.
  An asterisk: measured before exports were made to need less (decision 13), so that less will do now.
- *on disk*: the version's directory.

A dash: not exported by this script yet.

"""


def main() -> int:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", nargs="+", default=[], choices=BACKBONES, metavar="NAME", help="measure anew")
    parser.add_argument("--leave", nargs="+", default=[], choices=BACKBONES, metavar="NAME", help="do not export these")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--machine", help="what to call this machine")
    parser.add_argument("--one", choices=BACKBONES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        _print_measured(arguments.one, exported=arguments.one not in arguments.leave)
        return 0
    data = known()
    data["machine"] = arguments.machine or data["machine"]
    missing = [] if arguments.page else _missing(data["backbones"], arguments.again, arguments.leave)
    for index, name in enumerate(missing, start=1):
        sys.stderr.write(f"{index} of {len(missing)}: {name}\n")
        own = [sys.executable, __file__, "--one", name, *(["--leave", name] if name in arguments.leave else [])]
        answer = subprocess.run(own, check=False, stdout=subprocess.PIPE)  # noqa: S603 -- this very script
        if answer.returncode:
            sys.stderr.write(f"{name} ended with {answer.returncode}\n")
        for line in answer.stdout.splitlines():  # a process that dies of the export has told the rest before
            data["backbones"].setdefault(name, {}).update(json.loads(line))
        _write(data)
    _write(data)
    PAGE.write_text(page(data), encoding="utf-8")
    return 0


def _missing(found: Mapping[str, dict[str, Any]], again: Sequence[str], leave: Sequence[str]) -> list[str]:
    wanted = {name: "params" if name in leave else "export_seconds" for name in BACKBONES}
    return [name for name, key in wanted.items() if name in again or key not in found.get(name, {})]


def _write(data: dict[str, Any]) -> None:
    DATA.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def known() -> dict[str, Any]:
    """Return what has been measured so far."""
    if not DATA.exists():
        return {"machine": "two shared CPU cores", "backbones": {}}
    data: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return data


def page(data: dict[str, Any]) -> str:
    """Lay out the page: a row for every backbone of the code, in its order."""
    rows = [_row(name, data["backbones"][name]) for name in BACKBONES]
    table = "".join(f"| {' | '.join(line)} |\n" for line in [HEAD, tuple("---" for _ in HEAD), *rows])
    return ABOUT.format(count=len(rows), machine=data["machine"]) + table


def _row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    flops = "?" if found["flops"] is None else f"{found['flops'] / 1e9:.2f} G"
    millions = [f"{found[key] / 1e6:.2f} M" for key in ("params", "params_to_cut")]
    shape = "x".join(str(side) for side in found["shape"])
    sides = "x".join(map(str, found["input"]))
    facts = (name, sides, millions[0], f"`{found['cut']}`", shape, str(found["dimension"]), millions[1], flops)
    if "export_seconds" not in found:
        return (*facts, "-", "-", "-")
    memory = f"{found['peak_bytes'] / 1e9:.1f} GB{'' if found.get('lean') else '*'}"
    disk = f"{found['disk_bytes'] / 1e6:.0f} MB"
    return (*facts, f"{found['export_seconds']:.0f} s", memory, disk)


def _print_measured(name: str, *, exported: bool) -> None:
    """Build a backbone and print its default cut; then export it there and print what that cost."""
    row = BACKBONES[name]
    with tensorflow_ready(), tempfile.TemporaryDirectory() as models:
        from exporter.anatomy.facts import cut_points  # noqa: PLC0415 -- only once TensorFlow is ready
        from exporter.building import build  # noqa: PLC0415
        from exporter.pipeline import export  # noqa: PLC0415
        from exporter.recipe import ModelRecipe, OutputRecipe  # noqa: PLC0415

        points = cut_points(build(row, None, row.preprocessing).model)
        cut = [point for point in points if point.block_end and len(point.shape) == 4 and point.crossing == 1][-1]
        facts = {
            "input": [row.preprocessing.height, row.preprocessing.width],
            "params": points[-1].params,
            "cut": cut.ref,
            "shape": list(cut.shape[1:]),
            "dimension": cut.dimension,
            "params_to_cut": cut.params,
            "flops": cut.flops,
        }
        print(json.dumps(facts), flush=True)  # noqa: T201 -- read by the process that started this one
        if not exported:
            return
        recipe = ModelRecipe(name, name, "random", row.preprocessing, (OutputRecipe("top", cut.ref),), "top")
        published = export(recipe, Path(models))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        cost = {
            "export_seconds": round(published.seconds, 1),
            "peak_bytes": peak,
            "disk_bytes": published.size,
            "lean": True,  # what docs/decisions/0013 says holds; rows from before do not have it
        }
        print(json.dumps(cost), flush=True)  # noqa: T201 -- as above


if __name__ == "__main__":
    sys.exit(main())
