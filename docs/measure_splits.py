"""Split real networks at their full size, and write docs/splits.md from what was found.

python docs/measure_splits.py                  splits what splits.json lacks, one after the other
python docs/measure_splits.py --again NAME …   splits these again
python docs/measure_splits.py --page           only writes the page

`microtome split` does the work; splits.json is written after every network, so that an interrupted run can continue.
tests/unit/test_splits_page.py checks the page against the data, and the data against the tests' splits.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from measuring import Json, Page, microtome, parser, table

from exporter.recipe.backbones import BACKBONES

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


def page(data: Json) -> str:
    """Lay out the page: a row for every block, and one for each failure."""
    rows = [row for name in SPLITS if name in data for row in _rows(name, data[name])]
    costs = "".join(
        f"- {name}: {found['cpu_seconds']:.0f} s of a processor, {found['peak_bytes'] / 1e9:.1f} GB\n"
        for name in SPLITS
        if (found := data.get(name)) and "failed" not in found
    )
    return f"{ABOUT}{table(HEAD, rows)}\nWhat writing and proving took, TensorFlow's start included:\n\n{costs}"


PAGE = Page("splits", page)
known = PAGE.known


def _rows(name: str, found: Json) -> Iterator[tuple[str, ...]]:
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


def _split(name: str) -> Json:
    """Split a network; return its cuts and its proof, or the reason of a failure."""
    weights = "imagenet" if name in PUBLISHED else "random"
    cuts = [option for cut in SPLITS[name] for option in ("--at", cut)]
    with tempfile.TemporaryDirectory() as folder:
        command = ["split", name, *cuts, "--weights", weights, "--images", str(PHOTOS)]
        ran = microtome([*command, "--out", str(Path(folder, "blocks")), "--json"])
    return {"at": SPLITS[name], **ran.facts, **({} if ran.failed is not None else json.loads(ran.printed))}


if __name__ == "__main__":
    sys.exit(PAGE.measure(SPLITS, _split, parser(__doc__, SPLITS).parse_args()))
