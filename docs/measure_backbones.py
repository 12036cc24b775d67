"""Measure every backbone, and write docs/backbones.md from what was measured.

python docs/measure_backbones.py                  measures what backbones.json lacks, each in a process of its own
python docs/measure_backbones.py --stale          measures also the rows from before exports needed less memory
python docs/measure_backbones.py --again NAME …   measures these again
python docs/measure_backbones.py --leave NAME …   builds these, but does not export them
python docs/measure_backbones.py --page           only writes the page

backbones.json is written after every backbone, the cheapest first, so that an interrupted run can continue. An export
that fails or needs more than --most-memory is shown on the page with its reason. tests/unit/test_backbones_page.py
checks the page against the data, and the data against the code's table.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exporter.errors import ExporterError
from exporter.recipe.backbones import BACKBONES
from exporter.runtime.tensorflow_ready import tensorflow_ready

PAGE = Path(__file__).with_name("backbones.md")
DATA = Path(__file__).with_name("backbones.json")
UNNAMED = "two shared CPU cores"
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
- *export*: seconds of `microtome export` for this one output, from building to publication, verification against
  Keras included; *of a processor*: the same of processor time, which other work on the machine moves less; *memory*:
  the process's largest resident size, TensorFlow's own half gigabyte included. Measured {machines}.{stale}
- *on disk*: the version's directory.

"""
STALE = """
  An asterisk: measured before exports were made to need less (decision 13), on {machine},
  so that less will do now."""
MARKS = ("", "†", "‡", "§", "¶")
"""Of the machines that the rows were measured on, in the order of the table."""


def main() -> int:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", nargs="+", default=[], choices=BACKBONES, metavar="NAME", help="measure again")
    parser.add_argument("--stale", action="store_true", help="measure rows with an asterisk again")
    parser.add_argument("--leave", nargs="+", default=[], choices=BACKBONES, metavar="NAME", help="do not export these")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--machine", default=UNNAMED, help="what to call this machine (%(default)s)")
    parser.add_argument(
        "--most-memory", type=float, default=12, metavar="GB", help="stop an export that needs more (%(default)s)"
    )
    parser.add_argument("--one", choices=BACKBONES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        threading.Thread(target=_watch, args=[arguments.most_memory], daemon=True).start()
        return _print_measured(arguments.one, exported=arguments.one not in arguments.leave)
    data = known()
    missing = [] if arguments.page else _missing(data["backbones"], arguments)
    for index, name in enumerate(missing, start=1):
        sys.stderr.write(f"{index} of {len(missing)}: {name}\n")
        leave = ["--leave", name] if name in arguments.leave else []
        own = [sys.executable, __file__, "--one", name, "--most-memory", str(arguments.most_memory), *leave]
        answer = subprocess.run(own, check=False, stdout=subprocess.PIPE)  # noqa: S603 -- this very script
        rows = data["backbones"]
        rows[name] = _renewed(rows.get(name, {}), answer, arguments.machine)
        _write(data)
    _write(data)
    PAGE.write_text(page(data), encoding="utf-8")
    return 0


def _missing(found: Mapping[str, dict[str, Any]], arguments: argparse.Namespace) -> list[str]:
    """Return what is to be measured, the cheapest first."""
    wanted = {name: "params" if name in arguments.leave else "export_seconds" for name in BACKBONES}
    missing = [
        name
        for name, key in wanted.items()
        if name in arguments.again
        or key not in found.get(name, {})
        or (arguments.stale and _is_stale(found[name]) and name not in arguments.leave)
    ]
    return sorted(missing, key=lambda name: found.get(name, {}).get("flops") or 0)


def _is_stale(row: Mapping[str, Any]) -> bool:
    """Whether a row is from before exports needed less memory; such rows do not name their machine."""
    return "machine" not in row


def _renewed(row: dict[str, Any], answer: subprocess.CompletedProcess[bytes], machine: str) -> dict[str, Any]:
    """Return a row from its process' output, which may be incomplete if the process ended early."""
    found: dict[str, Any] = {}
    for line in answer.stdout.splitlines():
        found.update(json.loads(line))
    if answer.returncode < 0:
        found["failed"] = f"was ended by {signal.Signals(-answer.returncode).name}"
    elif answer.returncode:
        found.setdefault("failed", f"ended with {answer.returncode}")
    return {**row, **found} if "failed" in found else {**found, "machine": machine}


def _watch(gigabytes: float) -> None:
    """End this process when it takes more memory than this."""
    while True:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        if pages * os.sysconf("SC_PAGE_SIZE") > gigabytes * 1e9:
            _tell({"failed": f"wants more than {gigabytes:g} GB of memory"})
            os._exit(1)
        time.sleep(0.2)


def _write(data: dict[str, Any]) -> None:
    DATA.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def known() -> dict[str, Any]:
    """Return what has been measured so far."""
    if not DATA.exists():
        return {"machine": UNNAMED, "backbones": {}}
    data: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return data


def page(data: dict[str, Any]) -> str:
    """Lay out the page: a row for every backbone of the code, in its order."""
    found = data["backbones"]
    fresh = [found[name]["machine"] for name in BACKBONES if not _is_stale(found[name])]  # failures have none
    marks = dict(zip(dict.fromkeys(fresh), MARKS, strict=False))
    rows = [_row(name, found[name], marks) for name in BACKBONES]
    table = "".join(f"| {' | '.join(line)} |\n" for line in [HEAD, tuple("---" for _ in HEAD), *rows])
    machines = "; ".join(f"with a {mark}, on {name}" if mark else f"on {name}" for name, mark in marks.items())
    old = any("export_seconds" in row and _is_stale(row) for row in found.values())
    stale = STALE.format(machine=data["machine"]) if old else ""
    return ABOUT.format(count=len(rows), machines=machines, stale=stale) + table + "".join(_gaps(found))


def _gaps(found: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the reason for each dash."""
    dashes = {name: found[name].get("failed") for name in BACKBONES if "export_seconds" not in found[name]}
    if dashes:
        yield "\nA dash:\n\n"
    for name, reason in dashes.items():
        yield f"- {name} {reason or 'has not been exported by this script yet'}.\n"


def _row(name: str, found: dict[str, Any], marks: Mapping[str, str]) -> tuple[str, ...]:
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


def _print_measured(name: str, *, exported: bool) -> int:
    """Build a backbone and print its default cut; then export it there and print the cost."""
    row = BACKBONES[name]
    with tensorflow_ready(), tempfile.TemporaryDirectory() as models:
        from exporter.export import export  # noqa: PLC0415
        from exporter.graph.cut_points import cut_points, default_cut  # noqa: PLC0415 -- only once TensorFlow is ready
        from exporter.models.building import build  # noqa: PLC0415
        from exporter.recipe.resolved import ModelRecipe, OutputRecipe  # noqa: PLC0415

        points = cut_points(build(row, None, row.preprocessing).model)
        cut = default_cut(points)
        if cut is None:
            raise RuntimeError(f"{name} has no feature map that a single tensor carries")
        _tell(
            {
                "input": [row.preprocessing.height, row.preprocessing.width],
                "params": points[-1].params,
                "cut": cut.ref,
                "shape": list(cut.shape[1:]),
                "dimension": cut.dimension,
                "params_to_cut": cut.params,
                "flops": cut.flops,
            }
        )
        if not exported:
            return 0
        recipe = ModelRecipe(name, name, "random", row.preprocessing, (OutputRecipe("top", cut.ref),), "top")
        before = time.process_time()
        try:
            published = export(recipe, Path(models))
        except ExporterError as error:
            _tell({"failed": f"fails: {' '.join(str(error).split()).removesuffix('.')}"})
            return 1
        _tell(
            {
                "export_seconds": round(published.seconds, 1),
                "cpu_seconds": round(time.process_time() - before, 1),
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "disk_bytes": published.size,
            }
        )
        return 0


def _tell(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)  # noqa: T201 -- read by the process that started this one


if __name__ == "__main__":
    sys.exit(main())
