"""Export the backbones with packaged weights with `precision: auto`, and write the table of docs/guides/precision.md.

python docs/measure_precision.py PHOTOS     a folder of photos to calibrate on, of which 32 are measured
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from measuring import Json, microtome, table

PAGE = Path(__file__).with_name("guides") / "precision.md"
START, END = "<!-- table -->\n", "<!-- end of table -->"
HEAD = ("backbone", "output", "bfloat16, worst cosine", "float16, worst cosine", "decision")
BACKBONES = ("EfficientNetLite0", "EfficientNetLite1", "EfficientNetLite2")
OUTPUTS = {"early": "block2b_add", "middle": "block5a_expand_activation", "top": "top_activation"}
SINGLE = "EfficientNetLite0", "first", "stem_conv"
"""One more, cut at its first layer alone."""


def main() -> int:
    """Export them and write the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("photos", type=Path, metavar="PHOTOS")
    photos = options.parse_args().photos.absolute()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        models = [_model(name, f"whole{name[-1]}", OUTPUTS, photos) for name in BACKBONES]
        models.append(_model(SINGLE[0], "first", {SINGLE[1]: SINGLE[2]}, photos))
        (folder / "recipe.yaml").write_text(json.dumps({"models": models}), encoding="utf-8")
        ran = microtome(["export", str(folder / "recipe.yaml"), "--out", str(folder / "models")])
        if ran.failed is not None:
            sys.stderr.write(f"{ran.failed}\n")
            return 1
        rows = [row for model in models for row in _rows(model, folder / "models" / model["name"] / "1")]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(f"{before}{START}{table(HEAD, rows)}{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0


def _model(backbone: str, name: str, layers: dict[str, str], photos: Path) -> Json:
    outputs = [{"name": output, "layer": layer} for output, layer in layers.items()]
    weights = {"backbone": backbone, "weights": "imagenet", "precision": "auto", "calibration": str(photos)}
    return {"name": name, **weights, "outputs": outputs}


def _rows(model: Json, version: Path) -> Iterator[tuple[str, ...]]:
    manifest = json.loads((version / "assets.extra" / "manifest.json").read_text(encoding="utf-8"))
    said = manifest["precision"]
    for output in manifest["outputs"]:
        tried = [said["tried"].get(name) for name in ("bfloat16", "float16")]
        figures = ["not measured" if one is None else f"{one[output['name']]:.5f}" for one in tried]
        yield model["backbone"], f"`{output['layer']}`", *figures, said["arithmetic"]


if __name__ == "__main__":
    sys.exit(main())
