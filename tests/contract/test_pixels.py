"""Exporter and gateway turn an image into the same pixels, though neither imports the other."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exporter.errors import CalibrationImageBroken
from exporter.recipe.images import read_pixels
from exporter.recipe.preprocessing import Preprocessing
from microtome.manifest import InputSpec
from microtome.preprocessing import decode

WAYS = [
    Preprocessing(224, 224, shortest_side=256),
    Preprocessing(96, 160, shortest_side=200, interpolation="bicubic", jpeg_draft=False),
    Preprocessing(100, 80, "squash", None, "nearest", "none", exif_orientation=False),
    Preprocessing(128, 96, "letterbox", None, "lanczos", "none"),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of many kinds: large, tiny, lying on their side, grey, with alpha, with a palette, a long strip."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(5).integers(0, 256, (900, 1300, 3), np.uint8)
    large = Image.fromarray(noise).resize((1300, 900))
    turned = Image.Exif()
    turned[0x0112] = 6
    large.save(folder / "large.jpg")
    large.save(folder / "turned.jpg", exif=turned)
    large.resize((400, 277)).save(folder / "turned.tif", exif=turned)
    large.resize((400, 277)).save(folder / "turned.png", exif=turned)
    large.resize((40, 31)).save(folder / "tiny.png")
    large.convert("L").save(folder / "grey.jpg")
    large.convert("RGBA").resize((300, 200)).save(folder / "alpha.webp")
    large.resize((301, 203)).quantize(16).save(folder / "palette.gif")
    large.resize((1, 700)).save(folder / "strip.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.resize)
def test_pixels_are_the_gateways_bit_by_bit(pictures: list[Path], way: Preprocessing) -> None:
    """A projection fitted on other pixels than will be served would be fitted on other images."""
    spec = InputSpec(color="rgb", **asdict(way))
    for path in pictures:
        expected = decode(path.read_bytes(), spec, max_pixels=10**8)
        np.testing.assert_array_equal(read_pixels(path, way), expected, err_msg=path.name)


def test_broken_image_is_told_by_name(tmp_path: Path) -> None:
    """Among thousands of calibration images the one that cannot be read must be found."""
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(CalibrationImageBroken, match=r"broken\.jpg.*Take it out of the folder"):
        read_pixels(tmp_path / "broken.jpg", WAYS[0])
