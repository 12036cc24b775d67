"""A region's pixels are those of a file with no more than the region in it."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from microtome.manifest import InputSpec
from microtome.preprocessing import decode, prepared
from microtome.regions import WHOLE, Region, read_region, read_regions
from tests.pictures import encoded, noise

EXACT = InputSpec(32, 48, "squash", None, "bilinear", "none", exif_orientation=True, decode="exact")
DRAFT = replace(EXACT, decode="balanced")
MANY = 10**8
REGIONS = [
    Region(0.25, 0.5, 0.3, 0.4),
    Region(0.0, 0.0, 0.5, 0.5),
    Region(0.9, 0.9, 0.1, 0.1),
    Region(0.0, 0.31, 1, 0.2),
]


def cut(picture: Image.Image, region: Region) -> Image.Image:
    """Cut a region out by Pillow alone, its edges rounded to the nearest pixel."""
    across, down = picture.size
    edges = (region.x * across, region.y * down, (region.x + region.width) * across, (region.y + region.height) * down)
    return picture.crop(tuple(int(edge + 0.5) for edge in edges))  # type: ignore[arg-type]  # four of them


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("resize", ["squash", "shortest-side", "letterbox"])
def test_a_region_is_what_cutting_first_gives(region: Region, resize: Any) -> None:
    """Bit by bit: with every resize, the region is cut before it, and nothing around it is seen."""
    side = 50 if resize == "shortest-side" else None
    spec = replace(EXACT, resize=resize, shortest_side=side, crop="center" if side else "none")
    picture = noise(401, 299)
    expected = decode(encoded(cut(picture, region)), spec, max_pixels=MANY)
    np.testing.assert_array_equal(decode(encoded(picture), spec, max_pixels=MANY, region=region), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("TIFF", {}), ("JPEG", {"quality": 95})])
def test_fractions_are_of_the_upright_image(orientation: int, form: str, options: dict[str, Any]) -> None:
    """However the camera was held: the same region of the image as it is seen."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(121, 80), form, exif=exif, **options)
    opened = Image.open(io.BytesIO(data))
    opened.load()
    # Pillow turns a TIFF while it loads.
    upright = opened if form == "TIFF" else ImageOps.exif_transpose(opened)
    for region in REGIONS:
        expected = decode(encoded(cut(upright.convert("RGB"), region)), EXACT, max_pixels=MANY)
        np.testing.assert_array_equal(decode(data, EXACT, max_pixels=MANY, region=region), expected)


@pytest.mark.parametrize(
    "made",
    [
        lambda: (noise(90, 60).quantize(16), {}),
        lambda: (noise(90, 60).convert("L"), {}),
        lambda: (
            Image.merge("RGBA", (*noise(90, 60).split(), noise(90, 60, 1).convert("L"))),
            {"background": "#00ff00"},
        ),
        lambda: (Image.fromarray(np.arange(5400, dtype=np.uint16).reshape(60, 90) * 12), {"depth": "scale"}),
    ],
    ids=["palette", "grey", "background", "deep grey"],
)
def test_every_kind_of_picture_is_cut_before_its_colours_change(
    made: Callable[[], tuple[Image.Image, dict[str, Any]]],
) -> None:
    """A part keeps its palette, its transparency and its depth."""
    picture, keys = made()
    spec = replace(EXACT, **keys)
    for region in REGIONS:
        expected = decode(encoded(cut(picture, region)), spec, max_pixels=MANY)
        np.testing.assert_array_equal(decode(encoded(picture), spec, max_pixels=MANY, region=region), expected)


def test_a_small_region_of_a_large_jpeg_is_not_blurred() -> None:
    """The scale of the decode is chosen by the region, so that the pixels are near those of cutting first."""
    # Fine stripes: at an eighth of the size, which is right for the whole photo, all of them would be grey.
    stripes = np.zeros((1600, 2400, 3), np.uint8)
    stripes[:, (np.arange(2400) // 3) % 2 == 0] = 255
    data = encoded(Image.fromarray(stripes), "JPEG", quality=95)
    region = Region(0.5, 0.5, 48 / 2400, 32 / 1600)
    found = decode(data, DRAFT, max_pixels=MANY, region=region).astype(int)
    expected = decode(encoded(cut(Image.open(io.BytesIO(data)), region)), EXACT, max_pixels=MANY)
    np.testing.assert_array_equal(found, expected)
    assert found.std() > 100


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_large_region_of_a_large_jpeg_is_decoded_small(orientation: int) -> None:
    """At a reduced scale a region is all but what an exact decode gives, wherever its edges lie."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Neither side is a multiple of 8, so the last reduced pixels are made of fewer than the others.
    picture = noise(480, 320).resize((2399, 1601), Image.Resampling.BICUBIC)
    data = encoded(picture, "JPEG", quality=95, exif=exif)
    for region in (Region(0.123, 0.217, 0.501, 0.613), Region(0.5, 0.5, 0.5, 0.5)):
        small = decode(data, DRAFT, max_pixels=MANY, region=region).astype(int)
        exact = decode(data, EXACT, max_pixels=MANY, region=region).astype(int)
        assert np.abs(small - exact).mean() < 1.2
        with prepared(data, DRAFT, max_pixels=MANY, regions=[region]) as reduced:
            cost = reduced.cost.memory
        with prepared(data, EXACT, max_pixels=MANY, regions=[region]) as full:
            assert cost < full.cost.memory / 2


def test_regions_of_one_decode_are_those_of_one_decode_each() -> None:
    """In any company: regions of another size, the whole image, and the same region twice."""
    data = encoded(noise(2000, 1500), "JPEG", quality=90)
    wanted = [*REGIONS, WHOLE, Region(0.4, 0.4, 0.02, 0.02), REGIONS[0]]
    for spec in (DRAFT, EXACT):
        with prepared(data, spec, max_pixels=MANY, regions=wanted) as picture:
            found = picture.parts()
        assert len(found) == len(wanted)
        for region, pixels in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(pixels, decode(data, spec, max_pixels=MANY, region=region))
    np.testing.assert_array_equal(
        decode(data, DRAFT, max_pixels=MANY, region=WHOLE), decode(data, DRAFT, max_pixels=MANY)
    )


@pytest.mark.parametrize(
    ("region", "size", "box"),
    [
        (WHOLE, (7, 5), (0, 0, 7, 5)),
        (Region(0.5, 0.5, 0.5, 0.5), (5, 5), (3, 3, 5, 5)),
        (Region(0.1, 0.3, 0.2, 0.4), (10, 10), (1, 3, 3, 7)),
        (Region(0.5, 0.5, 1e-9, 1e-9), (10, 10), (5, 5, 6, 6)),
        (Region(0.9999999, 0.0, 1e-7, 1.0), (10, 1), (9, 0, 10, 1)),
        (Region(1 / 3, 0.0, 2 / 3 + 5e-7, 1.0), (3, 3), (1, 0, 3, 3)),
    ],
)
def test_edges_are_rounded_and_a_region_has_a_pixel(
    region: Region, size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    """To the nearest pixel, halves up, and never beyond the image."""
    assert region.box(size) == box


@pytest.mark.parametrize(
    "given", [[0, 0.25, 1, 0.5], (0.0, 0.25, 1.0, 0.5), "0,0.25,1,0.5", " 0, 0.25 ,1, .5", [-0.0, 0.25, 1, 0.5]]
)
def test_regions_are_read(given: object) -> None:
    """Numbers, or text; and equal regions have equal keys in the cache."""
    assert repr(read_region(given)) == repr(Region(0.0, 0.25, 1.0, 0.5))
    assert read_regions(given) == (Region(0.0, 0.25, 1.0, 0.5),)
    assert len(read_regions([given, given])) == 2


@pytest.mark.parametrize(
    "given",
    [
        None, "", [], {}, 7, "0,0,1", "0,0,1,1,1", [0, 0, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 1, -0.1],
        [-0.1, 0, 1, 1], [0.5, 0, 0.6, 1], [0, 0.5, 1, 0.6], [float("nan"), 0, 1, 1], [0, 0, float("inf"), 1],
        "nan,0,1,1", [0, 0, 1, "1"], [False, 0, 1, True], [[0, 0, 1, 1], 7], [[]], [10**400, 0, 1, 1], [0, 0, 640, 480],
    ],
)  # fmt: skip
def test_what_is_no_region_is_refused(given: object) -> None:
    """Too few or too many numbers, none, or beyond the image."""
    with pytest.raises(ValueError, match="fractions of the image"):
        read_regions(given)
