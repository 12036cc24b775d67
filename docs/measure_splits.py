"""Split real networks at their full size, and write docs/splits.md from what was found.

python docs/measure_splits.py                  splits what splits.json lacks, one after the other
python docs/measure_splits.py --again NAME …   splits these again
python docs/measure_splits.py --page           only writes the page

`microtome split` does the work; splits.json is written after every network, so that an interrupted run can continue.
tests/unit/test_splits_page.py checks the page against the data, and the data against the tests' splits.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measured_command import microtome

from exporter.recipe.backbones import BACKBONES

PAGE = Path(__file__).with_name("splits.md")
DATA = Path(__file__).with_name("splits.json")
PHOTOS = Path(__file__).parents[1] / "examples"
#   backbone: where it is cut
SPLITS = {
    "EfficientNetLite0": ("block3b_add", "block5b_expand_activation", "block7a_project_bn"),
    "DenseNet169": ("pool2_pool", "pool3_pool", "conv4_block16_concat", "conv4_block20_1_relu", "pool4_pool"),
    "InceptionV3": ("mixed4", "activation_42", "mixed5"),
    "ResNet152": ("conv2_block3_out", "conv4_block18_1_relu", "conv4_block36_out"),
    "NASNetMobile": ("reduction_concat_stem_2", "normal_add_1_5", "normal_concat_8"),
    "InceptionResNetV2": ("block35_10_ac", "block17_10_mixed", "mixed_7a"),
}
PUBLISHED = ("EfficientNetLite0",)
"""Backbones whose trained weights need no network."""
HEAD = ("backbone", "input", "cut at", "tensors crossing", "block", "weights", "max abs", "max rel", "cosine")
ABOUT = """# Networks in blocks, proved at full size

Made by `python docs/measure_splits.py` from [splits.json](splits.json). Each network was cut by
`microtome split BACKBONE --at LAYER …` at its default input size, with its classifier; every block was written as a
SavedModel and as a `.keras` file, read back and chained, and all that leaves each block was compared with what Keras
computes in the network itself, on three images of noise and on the three photos of `examples/`. Weights are random but
for EfficientNetLite0's, which are ImageNet's.

- *tensors crossing*: what a block leaves to those after it; more than one within dense, residual, Inception and NASNet
  blocks.
- *weights*: the block's own.
- *max abs*: the largest difference; *max rel*: relative to the largest value of that image; *cosine*: of the image
  that is worst. Each the worst of all tensors, both forms and all six images, with all blocks up to there chained.
  `microtome split` publishes nothing when *max rel* exceeds 1e-4.

"""


def main() -> int:
    """Split what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", nargs="+", default=[], choices=SPLITS, metavar="NAME", help="split again")
    parser.add_argument("--page", action="store_true", help="split nothing")
    arguments = parser.parse_args()
    data = known()
    missing = [] if arguments.page else [name for name in SPLITS if name in arguments.again or name not in data]
    for index, name in enumerate(missing, start=1):
        sys.stderr.write(f"{index} of {len(missing)}: {name}\n")
        data[name] = _split(name)
        DATA.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(data), encoding="utf-8")
    return 0


def known() -> dict[str, Any]:
    """Return the data so far."""
    found: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    return found


def page(data: dict[str, Any]) -> str:
    """Lay out the page: a row for every block, and one for each failure."""
    rows = [row for name in SPLITS if name in data for row in _rows(name, data[name])]
    table = "".join(f"| {' | '.join(line)} |\n" for line in [HEAD, tuple("---" for _ in HEAD), *rows])
    costs = "".join(
        f"- {name}: {found['cpu_seconds']:.0f} s of a processor, {found['peak_bytes'] / 1e9:.1f} GB\n"
        for name in SPLITS
        if (found := data.get(name)) and "failed" not in found
    )
    return f"{ABOUT}{table}\nWhat writing and proving took, TensorFlow's start included:\n\n{costs}"


def _rows(name: str, found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    pixels = BACKBONES[name].preprocessing
    size = f"{pixels.height}x{pixels.width}"
    if "failed" in found:
        yield (name, size, found["failed"], *("-" for _ in HEAD[3:]))
        return
    for block, cut in zip(found["blocks"], [*found["at"], None], strict=True):
        proof = [row for row in found["proof"] if row["block"] == block["name"]]
        yield (
            name,
            size,
            f"`{cut}`" if cut else "(the end)",
            str(len(block["gives"])),
            block["name"],
            f"{block['params'] / 1e6:.2f} M",
            f"{max(row['max_abs'] for row in proof):.1e}",
            f"{max(row['max_rel'] for row in proof):.1e}",
            f"{min(row['cosine'] for row in proof):.9f}",
        )


def _split(name: str) -> dict[str, Any]:
    """Split a network; return its cuts and its proof, or the reason of a failure."""
    weights = "imagenet" if name in PUBLISHED else "random"
    cuts = [option for cut in SPLITS[name] for option in ("--at", cut)]
    with tempfile.TemporaryDirectory() as folder:
        command = ["split", name, *cuts, "--weights", weights, "--images", str(PHOTOS)]
        ran = microtome([*command, "--out", str(Path(folder, "blocks")), "--json"])
    if ran.failed is not None:
        return {"at": SPLITS[name], "failed": ran.failed}
    return {"at": SPLITS[name], **ran.cost, **json.loads(ran.printed)}


if __name__ == "__main__":
    sys.exit(main())
