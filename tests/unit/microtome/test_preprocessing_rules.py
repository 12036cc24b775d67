"""docs/images.md, row by row: what becomes of each kind of image."""

import io
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from microtome.errors import BrokenImage
from microtome.manifest import InputSpec
from microtome.preprocessing import decode
from tests.pictures import encoded, noise

PAGE = Path(__file__).parents[3] / "docs" / "images.md"
AS_IT_IS = InputSpec(30, 40, "squash", None, "nearest", "none", exif_orientation=True, decode="exact")
RULES: dict[str, Callable[[], None]] = {}

# Pillow suggests RGBA, which is not what Keras does; the rule stands in a row below.
pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency")


def rule(row: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Hold a function to be the test of a row."""

    def keep(test: Callable[[], None]) -> Callable[[], None]:
        RULES[row] = test
        return test

    return keep


def pixels(data: bytes, spec: InputSpec = AS_IT_IS) -> np.ndarray:
    """Decode at the size that the picture has."""
    size = Image.open(io.BytesIO(data)).size
    turned = spec.exif_orientation and Image.open(io.BytesIO(data)).getexif().get(0x0112, 1) > 4
    width, height = size[::-1] if turned else size
    return decode(data, replace(spec, height=height, width=width), max_pixels=10**6)


def one(value: object, mode: str, form: str = "PNG") -> list[int]:
    """Decode a picture of one colour and return its first pixel."""
    found: list[int] = pixels(encoded(Image.new(mode, (40, 30), value), form))[0, 0].tolist()  # type: ignore[arg-type]
    return found


def same(left: bytes, right: bytes) -> None:
    """Both are the same picture."""
    np.testing.assert_array_equal(pixels(left), pixels(right))


@rule("RGB")
def _() -> None:
    np.testing.assert_array_equal(pixels(encoded(noise())), np.asarray(noise()))


@rule("grey")
def _() -> None:
    assert [77, 77, 77] == one(77, "L")


@rule("black and white, 1 bit")
def _() -> None:
    assert ([0] * 3, [255] * 3) == (one(0, "1"), one(1, "1"))


@rule("grey, 16 bit")
def _() -> None:
    assert ([200] * 3, [255] * 3, [255] * 3) == tuple(one(v, "I;16") for v in (200, 256, 65535))


@rule("RGB, 16 bit")
def _() -> None:
    # Pillow writes no such PNG: the smallest, by hand.
    row = b"\0" + bytes([0x12, 0xFF, 0x34, 0x00, 0x56, 0x78])
    out = io.BytesIO()
    out.write(b"\x89PNG\r\n\x1a\n")
    PngImagePlugin.putchunk(out, b"IHDR", b"\0\0\0\1\0\0\0\1", b"\x10\x02\0\0\0")
    PngImagePlugin.putchunk(out, b"IDAT", zlib.compress(row))
    PngImagePlugin.putchunk(out, b"IEND", b"")
    assert [0x12, 0x34, 0x56] == pixels(out.getvalue())[0, 0].tolist()


@rule("float32 TIFF")
def _() -> None:
    found = [one(value, "F", "TIFF")[0] for value in (-3.0, 0.6, 254.7, 300.0)]
    assert [0, 0, 254, 255] == found


@rule("palette")
def _() -> None:
    palette = noise().quantize(16)
    np.testing.assert_array_equal(pixels(encoded(palette)), np.asarray(palette.convert("RGB")))


@rule("palette with transparency")
def _() -> None:
    palette = noise().quantize(16)
    same(encoded(palette, transparency=bytes(range(16))), encoded(palette))


@rule("RGBA")
def _() -> None:
    assert [10, 20, 30] == one((10, 20, 30, 0), "RGBA")


@rule("grey with alpha")
def _() -> None:
    assert [9, 9, 9] == one((9, 0), "LA")


@rule("CMYK")
def _() -> None:
    assert [round((255 - ink) * 215 / 255) for ink in (10, 20, 30)] == one((10, 20, 30, 40), "CMYK", "TIFF")


@rule("YCCK JPEG")
def _() -> None:
    # Adobe's marker with transform 2 is what makes a CMYK JPEG a YCCK one.
    data = encoded(noise().convert("CMYK"), "JPEG", quality=95)
    marker = data.index(b"Adobe\0")
    ycck = data[: marker + 11] + b"\2" + data[marker + 12 :]
    stored = Image.open(io.BytesIO(ycck))
    assert stored.mode == "CMYK"
    np.testing.assert_array_equal(pixels(ycck), np.asarray(stored.convert("RGB")))
    assert (pixels(ycck) != pixels(data)).any()


@rule("colour profile")
def _() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    same(encoded(noise(), icc_profile=profile), encoded(noise()))


@rule("gamma of a PNG")
def _() -> None:
    extra = PngImagePlugin.PngInfo()
    extra.add(b"gAMA", (20_000).to_bytes(4, "big"))
    same(encoded(noise(), pnginfo=extra), encoded(noise()))


@rule("progressive JPEG")
def _() -> None:
    same(encoded(noise(), "JPEG", progressive=True), encoded(noise(), "JPEG", progressive=False))


@rule("interlaced PNG")
def _() -> None:
    # Adam7 of a picture of one pixel is its first pass alone; larger ones are those of PngSuite, in test_nasty.py.
    out = io.BytesIO()
    out.write(b"\x89PNG\r\n\x1a\n")
    PngImagePlugin.putchunk(out, b"IHDR", b"\0\0\0\1\0\0\0\1", b"\x08\x02\0\0\1")
    PngImagePlugin.putchunk(out, b"IDAT", zlib.compress(b"\0\1\2\3"))
    PngImagePlugin.putchunk(out, b"IEND", b"")
    assert [1, 2, 3] == pixels(out.getvalue())[0, 0].tolist()


@rule("animated GIF, PNG, WebP")
def _() -> None:
    red, blue = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "blue")
    for form in ("GIF", "PNG", "WEBP"):
        data = encoded(
            red, form, save_all=True, append_images=[blue, red], **({"lossless": True} if form == "WEBP" else {})
        )
        assert [255, 0, 0] == pixels(data)[0, 0].tolist()


@rule("several pages of a TIFF")
def _() -> None:
    pages = encoded(noise(seed=1), "TIFF", save_all=True, append_images=[noise(seed=2)])
    same(pages, encoded(noise(seed=1)))


@rule("EXIF orientation, `exif_orientation: true`")
def _() -> None:
    stored = noise().transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    same(encoded(stored, exif=exif), encoded(noise()))


@rule("EXIF orientation, `exif_orientation: false`")
def _() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    as_stored = replace(AS_IT_IS, exif_orientation=False)
    np.testing.assert_array_equal(pixels(encoded(noise(), exif=exif), as_stored), np.asarray(noise()))


@rule("truncated")
def _() -> None:
    for form in ("PNG", "JPEG", "WEBP"):
        data = encoded(noise(200, 200), form)
        with pytest.raises(BrokenImage):
            decode(data[: len(data) * 2 // 3], AS_IT_IS, max_pixels=10**6)


@pytest.mark.parametrize("row", RULES)
def test_the_rule_of_this_row_holds(row: str) -> None:
    """The row's image becomes what the row says."""
    RULES[row]()


def test_every_row_of_the_page_has_a_test() -> None:
    """The tables of the page and the tests of this module name the same kinds of image."""
    page = PAGE.read_text(encoding="utf-8")
    tables = page[page.index("## Colours") : page.index("## Formats")]
    rows = re.findall(r"^\| (.+?) \| .+ \|$", tables, re.MULTILINE)
    assert set(RULES) == set(rows) - {"image"}
