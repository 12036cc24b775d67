"""The proof that weights, scaling and preprocessing fit together: accuracy on real photos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

PUBLISHED = 85.1


def prepared(file: Path, manifest: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Decode, resize and crop a photo as the manifest says."""
    wanted = manifest["input"]
    assert (wanted["resize"], wanted["crop"], wanted["color"]) == ("shortest-side", "center", "rgb")
    with Image.open(file) as encoded:
        scale = wanted["shortest_side"] / min(encoded.size)
        size = round(encoded.width * scale), round(encoded.height * scale)
        image = encoded.convert("RGB").resize(size, Image.Resampling[wanted["interpolation"].upper()])
    left, top = (image.width - wanted["width"]) // 2, (image.height - wanted["height"]) // 2
    return np.asarray(image.crop((left, top, left + wanted["width"], top + wanted["height"])))


@pytest.mark.timeout(600)
def test_top_1_is_what_the_weights_are_known_for(lite0_models: Path, shared_data: Callable[[str], Path]) -> None:
    """Of a thousand ImageNet photos the exported SavedModel names 85.1 % right, give or take half a point."""
    photos = sorted(shared_data("imagenet1k_256").glob("n*.jpg"), key=lambda file: file.name.split("_")[0])
    assert len(photos) == 1000
    version = lite0_models / "lite0" / "1"
    manifest = json.loads((version / "assets.extra" / "manifest.json").read_bytes())
    serve = tf.saved_model.load(str(version)).signatures["serving_default"]
    named = []
    for start in range(0, len(photos), 25):
        batch = np.stack([prepared(file, manifest) for file in photos[start : start + 25]])
        named.extend(np.argmax(serve(images=tf.constant(batch))["classes"], axis=1))
    accuracy = 100 * float(np.mean(np.array(named) == np.arange(1000)))
    print(f"top-1 of the exported SavedModel: {accuracy:.1f} %")  # noqa: T201 -- shown by pytest -s
    assert accuracy == pytest.approx(PUBLISHED, abs=0.5)
