"""What each version must answer: Keras on pixels prepared here, without any code of ours between photo and vector."""

import io
from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image

from tests.e2e.answers import Vector
from tests.e2e.photos import example
from tests.e2e.test_fidelity import LAYERS, pixels

Expected = Mapping[tuple[int, str], Vector]
"""By version and photo: the default output's vector."""


def keras_vectors(names: Iterable[str]) -> Expected:
    """Run the backbone as it is built, before the exporter does anything to it; version 1 crops, 2 squashes."""
    # TensorFlow's seconds are for those who run this test.
    import keras  # noqa: PLC0415

    from exporter.models.building import build  # noqa: PLC0415
    from exporter.recipe.backbones import find_backbone  # noqa: PLC0415

    row = find_backbone("EfficientNetLite0")
    backbone = build(row, "imagenet", row.preprocessing).model
    top = keras.Model(backbone.input, backbone.get_layer(LAYERS["top"]).output)
    found = {}
    for name in names:
        for version, prepared in ((1, pixels(example(name))), (2, _squashed(example(name)))):
            features = top(prepared[np.newaxis], training=False)
            found[version, name] = np.mean(np.asarray(features[0], np.float64), axis=(0, 1))
    keras.utils.clear_session()
    return found


def _squashed(photo: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with Image.open(io.BytesIO(photo)) as image:
        return np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR), dtype=np.float32)
