"""Write docs/backbones.md: every backbone, what it weighs, where it is cut by default, and what exporting costs.

python docs/measure_backbones.py [--export NAME ...]    builds all of them, and really exports those that are named
"""

import argparse
import gc
import sys
import tempfile
from pathlib import Path

from exporter.backbones import BACKBONES, Backbone
from exporter.tensorflow_ready import tensorflow_ready

PAGE = Path(__file__).parent / "backbones.md"
HEAD = (
    "backbone", "input", "weights", "to the default cut", "operations", "default cut", "dimension", "export", "on disk",
)  # fmt: skip
ABOUT = """# Backbones

Made by `python docs/measure_backbones.py`. The default cut is the deepest feature map, as `microtome layers` lists it;
"weights" are all of the architecture's with its classifier, "to the default cut" and "operations" (a multiply-add is
two) are those that the cut needs. Export times, verification included, are of random weights on {machine}; a dash
means that this row was not exported for this page.

"""


def main() -> int:
    """Measure, then write the page whole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export", nargs="*", default=[], metavar="NAME", help="backbones to export")
    parser.add_argument("--machine", default="two shared CPU cores", help="what to call this machine")
    arguments = parser.parse_args()
    with tensorflow_ready():
        rows = [_row(row, exported=row.name in arguments.export) for row in BACKBONES.values()]
    lines = [HEAD, tuple("---" for _ in HEAD), *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    PAGE.write_text(ABOUT.format(machine=arguments.machine) + table, encoding="utf-8")
    return 0


def _row(row: Backbone, *, exported: bool) -> tuple[str, ...]:
    import keras  # noqa: PLC0415 -- only once TensorFlow is ready

    from exporter.anatomy.facts import cut_points  # noqa: PLC0415
    from exporter.building import build  # noqa: PLC0415

    keras.utils.clear_session()
    points = cut_points(build(row, None, row.preprocessing).model)
    gc.collect()
    cut = [point for point in points if point.block_end and len(point.shape) == 4 and point.crossing == 1][-1]
    flops = "?" if cut.flops is None else f"{cut.flops / 1e9:.2f} G"
    seconds, size = _exported(row, cut.ref) if exported else ("-", "-")
    sides = f"{row.preprocessing.height}x{row.preprocessing.width}"
    millions = [f"{params / 1e6:.1f} M" for params in (points[-1].params, cut.params)]
    sys.stderr.write(f"{row.name}\n")
    return (row.name, sides, *millions, flops, f"`{cut.ref}`", str(cut.dimension), seconds, size)


def _exported(row: Backbone, layer: str) -> tuple[str, str]:
    from exporter.pipeline import export  # noqa: PLC0415
    from exporter.recipe import ModelRecipe, OutputRecipe  # noqa: PLC0415

    recipe = ModelRecipe(row.name, row.name, "random", row.preprocessing, (OutputRecipe("top", layer),), "top")
    with tempfile.TemporaryDirectory() as models:
        published = export(recipe, Path(models))
        return f"{published.seconds:.0f} s", f"{published.size / 1e6:.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
