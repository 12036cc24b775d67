"""Draw photos of an ellipse at a random place on a textured background, with boxes.csv and a recipe, for the guide.

python docs/draw_boxes.py FOLDER
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

PHOTOS, SIDE = 400, 224
RECIPE = """models:
  - name: lite0
    backbone: EfficientNetLite0
    weights: imagenet
    input: {size: 224, resize: squash, crop: none}
    outputs:
      - {name: middle, layer: block5c_add, pooling: flatten}
      - {name: pyramid, layer: block5c_add, pooling: "spp(1,2,4)"}
      - {name: late, layer: block6d_add, pooling: flatten}
"""


def draw(folder: Path) -> None:
    """Write the photos, their list and the recipe."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(0)
    rows: list[tuple[object, ...]] = [("path", "x", "y", "width", "height")]
    for index in range(PHOTOS):
        cells = Image.fromarray(numbers.integers(0, 256, (8, 8, 3)).astype(np.uint8))
        blobs = np.asarray(cells.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(float)
        noise = numbers.normal(50, 35, (SIDE, SIDE, 1))
        image = Image.fromarray(np.clip(blobs * 0.6 + noise, 0, 255).astype(np.uint8))
        width, height = numbers.uniform(0.15, 0.5, 2)
        x, y = numbers.uniform(0, 1 - width), numbers.uniform(0, 1 - height)
        inside = [int(value) for value in numbers.integers(0, 256, 3)]
        ends = [float(end * SIDE) for end in (x, y, x + width, y + height)]
        edge = tuple(255 - value for value in inside)
        ImageDraw.Draw(image).ellipse(ends, fill=tuple(inside), outline=edge, width=SIDE // 40)
        image.save(folder / "photos" / f"{index:04}.png")
        rows.append((f"photos/{index:04}.png", *(round(float(value), 4) for value in (x, y, width, height))))
    with (folder / "boxes.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
