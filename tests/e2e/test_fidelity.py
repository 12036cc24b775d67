"""Vectors over HTTP are Keras' own, on pixels prepared here without any code of ours."""

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.e2e.answers import Vector, embed, relative_error, vector
from tests.e2e.conftest import Stack
from tests.e2e.photos import ten, unseen

# From recipe.yaml: the taps behind the outputs.
LAYERS = {"early": "block3b_add", "middle": "block5c_add", "top": "top_activation"}
PROBABILITIES = "probabilities"
TOLERANCE = 1e-4

Reference = Callable[[bytes], Mapping[str, Vector]]


def pixels(photo: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Prepare a photo as the manifest says in words: short side 256, bilinear, centre 224, RGB.

    All photos here have a short side below 512, where `jpeg_draft` does not come in.
    """
    with Image.open(io.BytesIO(photo)) as image:
        rgb = image.convert("RGB")
    short = min(rgb.size)
    assert short < 512 or rgb.size == (512, 512)
    resized = rgb.resize((rgb.width * 256 // short, rgb.height * 256 // short), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    return np.asarray(resized.crop((left, top, left + 224, top + 224)), dtype=np.float32)


@pytest.fixture(scope="module")
def keras_vectors() -> Iterator[Reference]:
    """Keras itself: the backbone as it is built, before the exporter cuts, freezes and writes anything."""
    # TensorFlow's seconds are for those who run this test.
    import keras  # noqa: PLC0415

    from exporter.models.building import build  # noqa: PLC0415
    from exporter.recipe.backbones import find_backbone  # noqa: PLC0415

    row = find_backbone("EfficientNetLite0")
    backbone = build(row, "imagenet", row.preprocessing).model
    ends = [*(backbone.get_layer(name).output for name in LAYERS.values()), backbone.output]
    taps = keras.Model(backbone.input, ends)

    def vectors(photo: bytes) -> Mapping[str, Vector]:
        # Levels from 0 to 255: this backbone begins with a scaling layer.
        *maps, probabilities = taps(pixels(photo)[np.newaxis], training=False)
        means = {
            name: np.mean(np.asarray(one[0], np.float64), axis=(0, 1)) for name, one in zip(LAYERS, maps, strict=True)
        }
        return {**means, PROBABILITIES: np.asarray(probabilities[0], np.float64)}

    yield vectors
    keras.utils.clear_session()


def largest_error(stack: Stack, photos: Mapping[str, bytes], reference: Reference) -> float:
    """Send every photo, compare every output, and return the largest relative error, naming where it is too large."""
    errors: dict[tuple[str, str], float] = {}
    with stack.gateway.client() as client:
        for name, photo in photos.items():
            answer = embed(client, unseen(photo), output=list(LAYERS))
            expected = reference(photo)
            for index, output in enumerate(LAYERS):
                errors[name, output] = relative_error(vector(answer, index), expected[output])
    assert {where: error for where, error in errors.items() if error > TOLERANCE} == {}
    return max(errors.values())


def test_ten_photos_through_http_equal_keras(
    stack: Stack, keras_vectors: Reference, record_property: Callable[[str, object], None]
) -> None:
    """JPEG and PNG, upright and turned: every output of every photo is within 1e-4 of Keras."""
    photos = ten()
    assert len(photos) == 10
    error = largest_error(stack, photos, keras_vectors)
    record_property("drill", f"ten photos against Keras: largest relative error {error:.1e}")


def test_probabilities_of_ten_photos_equal_keras(
    stack: Stack, keras_vectors: Reference, record_property: Callable[[str, object], None]
) -> None:
    """The softmax of the network as Keras builds it, which the graph does not have: the gateway computes it."""
    largest = 0.0
    with stack.gateway.client() as client:
        for photo in ten().values():
            answer = client.post("/classify", params={"top_k": 1000}, content=unseen(photo)).json()
            labels = answer["predictions"][0]["labels"]
            served = np.zeros(1000)
            served[[label["index"] for label in labels]] = [label["score"] for label in labels]
            largest = max(largest, float(np.abs(served - keras_vectors(photo)[PROBABILITIES]).max()))
            assert [label["score"] for label in labels] == sorted(served, reverse=True)
    record_property("drill", f"probabilities of ten photos against Keras: largest difference {largest:.1e}")
    assert largest <= TOLERANCE


def test_ten_imagenet_photos_through_http_equal_keras(
    stack: Stack,
    keras_vectors: Reference,
    shared_data: Callable[[str], Path],
    record_property: Callable[[str, object], None],
) -> None:
    """The same for photos that we have not chosen."""
    files = sorted(shared_data("imagenet1k_256").glob("*.jpg"))[::100][:10]
    assert len(files) == 10
    error = largest_error(stack, {file.name: file.read_bytes() for file in files}, keras_vectors)
    record_property("drill", f"ten ImageNet photos against Keras: largest relative error {error:.1e}")
