"""What every peer shares, so that only the serving differs: decoding as the manifest says, the model, the answer.

The baselines decode by it too: not by the service, since sharing its code would hide that it gets slower.

Peers run in virtual environments of their own: nothing here imports more than Pillow, NumPy, TensorFlow and orjson.
The variables MODEL, the directory of a SavedModel, and PORT say what to serve.
"""

import io
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import orjson
from PIL import Image, ImageOps

MODEL = os.environ.get("MODEL", "")
PORT = int(os.environ.get("PORT", "8000"))
MAX_BATCH = 32
"""That of the model's manifest."""
MAX_WAIT = 0.005
"""Seconds that a batch is held open."""


def decode(encoded: bytes, spec: dict[str, Any]) -> Any:
    """Decode for a model that resizes an image's shortest side and crops the centre; return uint8 [H, W, 3]."""
    image: Image.Image = Image.open(io.BytesIO(encoded))
    scale = (spec["shortest_side"] or min(spec["height"], spec["width"])) / min(image.size)
    size = (int(image.width * scale), int(image.height * scale))
    # Manifests from before `decode` have `jpeg_draft` in its place.
    drafted = spec.get("decode", "balanced" if spec.get("jpeg_draft") else "exact") != "exact"
    if drafted:
        image.draft(None, (size[0] * 2, size[1] * 2))
    image = ImageOps.exif_transpose(image).convert("RGB")
    gap = 2.0 if drafted else None
    image = image.resize(size, Image.Resampling[spec["interpolation"].upper()], reducing_gap=gap)
    left, top = (size[0] - spec["width"]) // 2, (size[1] - spec["height"]) // 2
    return np.asarray(image.crop((left, top, left + spec["width"], top + spec["height"])))


def decoder() -> Any:
    """Return a function from an encoded image to the model's uint8 [H, W, 3]."""
    manifest = json.loads((Path(MODEL) / "assets.extra" / "manifest.json").read_text())
    return partial(decode, spec=manifest["input"])


def network() -> Any:
    """Return a function from uint8 [N, H, W, 3] to float32 [N, D]: the SavedModel's own signature."""
    import tensorflow as tf  # noqa: PLC0415, parents of workers need not load it

    loaded = tf.saved_model.load(MODEL)
    signature = loaded.signatures["serving_default"]

    def embed(images: Any) -> Any:
        return next(iter(signature(tf.constant(images)).values())).numpy()

    embed.keep_alive = loaded  # type: ignore[attr-defined]  # a signature does not hold its model
    return embed


def answer(vector: Any) -> bytes:
    """Write one vector as JSON, the fast way for all."""
    return orjson.dumps({"vector": np.ascontiguousarray(vector)}, option=orjson.OPT_SERIALIZE_NUMPY)
