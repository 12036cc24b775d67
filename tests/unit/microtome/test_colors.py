"""Backgrounds under transparent pictures, and greys of more than 8 bits, where a recipe asks for them."""

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, features

from microtome.manifest import InputSpec
from microtome.preprocessing import decode, prepared
from tests.pictures import encoded

SPEC = InputSpec(4, 4, "squash", None, "nearest", "none", exif_orientation=True, decode="balanced")
ON_WHITE, SCALED = replace(SPEC, background="#ffffff"), replace(SPEC, depth="scale")
ALPHAS = np.array([[0, 255, 128, 64]] * 4, np.uint8)
GREEN = (0, 200, 0)


def pixels(data: bytes, spec: InputSpec) -> np.ndarray:
    """Decode."""
    return decode(data, spec, max_pixels=10**6)


def laid(color: tuple[int, ...], ground: tuple[int, ...] = (255, 255, 255)) -> np.ndarray:
    """Composite by hand."""
    share = ALPHAS[..., np.newaxis] / 255
    return np.asarray(np.rint(np.array(color) * share + np.array(ground) * (1 - share)))


def transparent(color: tuple[int, int, int] = GREEN) -> Image.Image:
    """One colour, with the alphas above."""
    picture = Image.new("RGB", (4, 4), color)
    picture.putalpha(Image.fromarray(ALPHAS))
    return picture


def png(depth: int, kind: int, row: bytes, key: bytes) -> bytes:
    """Write a PNG of four pixels in a row, with a transparent colour; Pillow writes none with such depths."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 4, 1, depth, kind, 0, 0, 0)
    parts = ((b"IHDR", head), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(levels: np.ndarray, bits: int, sample_format: int) -> bytes:
    """Write greys as an uncompressed TIFF; Pillow writes few kinds."""
    end, raw = (">" if levels.dtype.str[0] == ">" else "<"), levels.tobytes()
    height, width = levels.shape
    tags = [
        (256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8 + 2 + 10 * 12 + 4), (277, 1),
        (278, height), (279, len(raw)), (339, sample_format),
    ]  # fmt: skip
    out = (b"MM\0*" if end == ">" else b"II*\0") + struct.pack(f"{end}IH", 8, len(tags))
    for tag, value in tags:
        short = tag not in {256, 257, 273, 278, 279}
        number = struct.pack(f"{end}HH", value, 0) if short else struct.pack(f"{end}I", value)
        out += struct.pack(f"{end}HHI", tag, 3 if short else 4, 1) + number
    return out + b"\0\0\0\0" + raw


def greys(levels: np.ndarray, bits: int, sample_format: int) -> list[int]:
    """Decode four levels, scaled."""
    spec = replace(SCALED, height=1)
    return [int(level) for level in pixels(tiff(levels[np.newaxis], bits, sample_format), spec)[0, :, 0]]


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True, "exact": True}),
        ("TIFF", {}),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)
def test_alpha_lies_on_the_background(form: str, options: dict[str, object]) -> None:
    """In every format with alpha: on white, and on any colour; without a background the colour beneath shows."""
    assert form != "AVIF" or features.check("avif")
    data, near = encoded(transparent(), form, **options), 4 if form == "AVIF" else 1
    np.testing.assert_allclose(pixels(data, ON_WHITE), laid(GREEN), atol=near)
    np.testing.assert_allclose(pixels(data, replace(SPEC, background="#102030")), laid(GREEN, (16, 32, 48)), atol=near)
    np.testing.assert_allclose(pixels(data, SPEC), np.broadcast_to(GREEN, (4, 4, 3)), atol=near)


def test_grey_palette_and_premultiplied_alpha_lie_on_it_too() -> None:
    """LA, a palette with alphas, a GIF with a transparent entry, and a TIFF whose colours are multiplied already."""
    grey = transparent((90, 90, 90))
    np.testing.assert_allclose(pixels(encoded(grey.convert("LA")), ON_WHITE), laid((90, 90, 90)), atol=1)
    palette = Image.fromarray(np.arange(4, dtype=np.uint8)[np.newaxis].repeat(4, 0), "P")
    palette.putpalette(GREEN * 4)
    written = encoded(palette, "PNG", transparency=ALPHAS[0].tobytes())
    np.testing.assert_allclose(pixels(written, ON_WHITE), laid(GREEN), atol=1)
    gif = pixels(encoded(palette, "GIF", transparency=0), ON_WHITE)[0].tolist()
    assert gif == [[255, 255, 255], list(GREEN), list(GREEN), list(GREEN)]
    multiplied = transparent().convert("RGBa")
    raw = encoded(Image.frombytes("RGBA", (4, 4), multiplied.tobytes()), "TIFF").replace(
        struct.pack("<HHIHH", 338, 3, 1, 2, 0), struct.pack("<HHIHH", 338, 3, 1, 1, 0)
    )
    np.testing.assert_allclose(pixels(raw, ON_WHITE), laid(GREEN), atol=3)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(1, 0, b"\xa0", struct.pack(">H", 1)), [255, 0, 255, 0]),
        (png(2, 0, b"\xc6", struct.pack(">H", 3)), [255, 0, 85, 170]),
        (png(8, 0, bytes([9, 8, 9, 7]), struct.pack(">H", 9)), [255, 8, 255, 7]),
        (png(16, 0, struct.pack(">4H", 0x900, 0x901, 0x900, 0xFFFF), struct.pack(">H", 0x900)), [255, 9, 255, 255]),
        (png(16, 2, struct.pack(">12H", *[0x900] * 3, *[0x800] * 9), struct.pack(">3H", *[0x900] * 3)), [255, 8, 8, 8]),
    ],
    ids=["1 bit", "2 bits", "8 bits", "16 bits", "RGB, 16 bits"],
)
def test_a_transparent_colour_of_a_png_is_seen_at_every_depth(data: bytes, expected: list[int]) -> None:
    """The colour is written at the file's depth, and Pillow's pixels have 8 bits."""
    spec = replace(ON_WHITE, height=1, depth="scale")
    assert pixels(data, spec)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("fault", ["metadata", "transparency"])
def test_a_fault_of_metadata_costs_no_transparency(fault: str) -> None:
    """Decoded once more without metadata, a picture keeps its transparent colour, unless that is what is broken."""
    data = png(8, 0, bytes([9, 8, 9, 7]), struct.pack(">H", 9))
    broken = struct.pack(">I", 2) + b"tEXtab" + b"\0\0\0\0"
    if fault == "transparency":
        data = data.replace(b"tRNS\0\x09", b"tRNS\0\x08")
    found = pixels(data[:33] + broken + data[33:], replace(ON_WHITE, height=1))[0, :, 0].tolist()
    assert found == ([255, 8, 255, 7] if fault == "metadata" else [9, 8, 9, 7])


def test_edges_have_no_halo() -> None:
    """A black disc on transparent red: resized before it is laid on white, its edge would turn red."""
    y, x = np.mgrid[:96, :96]
    inside = (x - 48) ** 2 + (y - 48) ** 2 < 30**2
    picture = np.where(inside[..., np.newaxis], [0, 0, 0, 255], [255, 0, 0, 0]).astype(np.uint8)
    for interpolation in ("bilinear", "bicubic", "lanczos"):
        small = pixels(encoded(Image.fromarray(picture)), replace(ON_WHITE, interpolation=interpolation, width=24))
        assert (small.max(axis=2) == small.min(axis=2)).all(), "Grey from black to white, and no colour."


def test_what_has_no_alpha_is_as_ever() -> None:
    """A photo is the same pixels with a background as without, decoded at a reduced scale too."""
    photo = Image.effect_noise((640, 480), 60).convert("RGB")
    for form in ("JPEG", "PNG"):
        np.testing.assert_array_equal(pixels(encoded(photo, form), ON_WHITE), pixels(encoded(photo, form), SPEC))


@pytest.mark.parametrize(
    ("levels", "bits", "kind", "expected"),
    [
        (np.array([0, 0x7FFF, 0x8000, 0xFFFF], "<u2"), 16, 1, [0, 127, 128, 255]),
        (np.array([0, 0x7FFF, 0x8000, 0xFFFF], ">u2"), 16, 1, [0, 127, 128, 255]),
        (np.array([-5, 0, 0x4000, 0x7FFF], "<i2"), 16, 2, [0, 0, 128, 255]),
        (np.array([0, 1 << 31, 0xFF << 24, (1 << 32) - 1], "<u4"), 32, 1, [0, 128, 255, 255]),
        (np.array([-(1 << 31), 0, 1 << 30, (1 << 31) - 1], "<i4"), 32, 2, [0, 0, 128, 255]),
        (np.array([0, 0.5, 1, 7], "<f4"), 32, 3, [0, 128, 255, 255]),
        (np.array([np.nan, -np.inf, np.inf, -3], ">f4"), 32, 3, [0, 0, 255, 0]),
    ],
    ids=["u16", "u16 big-endian", "i16", "u32", "i32", "float", "beyond"],
)
def test_deep_greys_are_scaled(levels: np.ndarray, bits: int, kind: int, expected: list[int]) -> None:
    """As scikit-image's img_as_ubyte: the high bits, negative ones black, floats from 0 to 1, NaN black."""
    assert greys(levels, bits, kind) == expected


def test_a_grey_png_of_16_bits_is_what_rgb_of_16_bits_is() -> None:
    """Both keep the high byte, so a grey picture is the same in either; and 8 bits widened to 16 come back."""
    grey, levels = replace(SCALED, height=1), [0x0000, 0x1234, 0x80FF, 0xFFFF]
    single = png(16, 0, struct.pack(">4H", *levels), struct.pack(">H", 1))
    triple = png(16, 2, struct.pack(">12H", *np.repeat(levels, 3)), struct.pack(">3H", 1, 1, 1))
    np.testing.assert_array_equal(pixels(single, grey), pixels(triple, grey))
    wide = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    found = pixels(encoded(Image.fromarray(wide)), replace(SCALED, height=16, width=16))
    np.testing.assert_array_equal(found[..., 1].ravel(), np.arange(256))


def test_depth_changes_nothing_of_other_pictures_and_keras_clips() -> None:
    """Colours of 8 bits are the same either way; without `scale`, what is above 255 is white."""
    photo = encoded(Image.effect_noise((8, 8), 60).convert("RGB"))
    np.testing.assert_array_equal(pixels(photo, SCALED), pixels(photo, SPEC))
    deep = encoded(Image.new("I;16", (4, 4), 0x2000))
    assert (pixels(deep, SPEC).max(), pixels(deep, SCALED).max()) == (255, 0x20)


def test_memory_of_the_copies_is_counted() -> None:
    """An image to be laid on a background, or scaled, needs more than one that is not."""
    for picture, spec in ((Image.new("RGBA", (2000, 1000)), ON_WHITE), (Image.new("I;16", (2000, 1000)), SCALED)):
        needed = []
        for each in (SPEC, spec):
            with prepared(encoded(picture), each, max_pixels=10**7) as found:
                needed.append(found.cost.memory)
        assert needed[1] - needed[0] > 8 * 2_000_000


def test_the_file_of_a_region_is_told_its_depth() -> None:
    """A part of a picture has no tags and no header of its own."""
    data = io.BytesIO(tiff(np.array([[0, 1 << 30, 1 << 31, (1 << 32) - 1]], "<u4"), 32, 1)).getvalue()
    spec = replace(SCALED, height=1, width=2)
    with prepared(data, spec, max_pixels=100) as picture:
        assert picture.pixels().shape == (1, 2, 3)
