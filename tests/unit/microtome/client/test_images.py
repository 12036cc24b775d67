"""Whatever callers have for an image becomes the bytes of a file, with the same pixels."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from microtome.client.errors import UnreadableImage
from microtome.client.images import encode, is_one
from tests.pictures import noise, png


def test_bytes_and_files_go_as_they_are(tmp_path: Path) -> None:
    """No re-encoding: the server's cache knows a file by its bytes."""
    photo = png()
    path = tmp_path / "photo.png"
    path.write_bytes(photo)
    for picture in (photo, bytearray(photo), memoryview(photo), path, str(path), path.read_bytes):
        assert photo == encode(picture)
        assert is_one(picture)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_pixels_arrive_exactly(shape: tuple[int, ...]) -> None:
    """PNG loses nothing."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert is_one(pixels)
    with Image.open(io.BytesIO(encode(pixels))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_pillow_images_of_every_kind_are_sent(mode: str) -> None:
    """What PNG cannot hold becomes RGB first."""
    picture = noise().convert(mode)
    with Image.open(io.BytesIO(encode(picture))) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8 .* received float32"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"list\(batch\)"),
        (np.zeros((3, 4, 5), np.uint8), r"received uint8 \[3, 4, 5\]"),
        (np.zeros((0, 4, 3), np.uint8), "empty array"),
        (b"", "0 bytes"),
        ("nowhere.jpg", "nowhere.jpg: No such file"),
        ("a\0b", "null byte"),
        (7, "Received int"),
        (lambda: Path("nowhere.jpg").read_bytes(), "^nowhere.jpg: No such file"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image_is_said_before_anything_is_sent(picture: Any, expected: str) -> None:
    """The message says what was expected."""
    with pytest.raises(UnreadableImage, match=expected):
        encode(picture)


@pytest.mark.parametrize("thing", [7, None, object()])
def test_what_is_no_image_at_all_counts_as_one(thing: object) -> None:
    """So that whoever passes it is told what an image is, not that it cannot be iterated over."""
    assert is_one(thing)
    several: list[object] = [[], (), iter(())]
    assert not any(map(is_one, several))
