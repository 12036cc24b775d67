"""Encoded images become the pixels that the manifest describes, or a clear error."""

import io
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from microtome import fast_resizing
from microtome.errors import BrokenImage, ImageTooLarge, NotAnImage, ServiceError
from microtome.fast_resizing import unavailable
from microtome.manifest import Color, Decode, InputSpec, Interpolation
from microtome.opening import FORMATS, RAW_PIXELS
from microtome.preprocessing import decode, place
from tests.pictures import encoded, noise, png

SQUASH = InputSpec(32, 24, "squash", None, "bilinear", "none", exif_orientation=True, decode="exact")
CROP = InputSpec(224, 224, "shortest-side", 256, "bilinear", "center", exif_orientation=True, decode="balanced")
MANY = 10**8
EXAMPLES = Path(__file__).parents[3] / "examples"


def test_squash_is_pillows_resize() -> None:
    """Squashing is one bilinear resize of the RGB image, nothing else."""
    picture = noise()
    expected = np.asarray(picture.resize((24, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode(encoded(picture), SQUASH, max_pixels=MANY), expected)


def test_shortest_side_is_resize_then_centre_crop() -> None:
    """451 x 300 becomes 384 x 256, of which the middle 224 x 224 is seen: torchvision's arithmetic."""
    picture = noise(451, 300)
    expected = picture.resize((384, 256), Image.Resampling.BILINEAR).crop((80, 16, 304, 240))
    np.testing.assert_array_equal(decode(encoded(picture), CROP, max_pixels=MANY), np.asarray(expected))


def test_letterbox_centres_the_picture_on_black() -> None:
    """A wide picture keeps its proportions, and lies in the middle of the window."""
    spec = replace(SQUASH, height=32, width=32, resize="letterbox")
    white = encoded(Image.new("RGB", (64, 32), "white"))
    pixels = decode(white, spec, max_pixels=MANY)
    assert [0, 255, 255, 0] == [int(pixels[row].mean()) for row in (7, 8, 23, 24)]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (256, 256), (255, 257)])
def test_every_shape_fits_the_window(size: tuple[int, int]) -> None:
    """Extreme proportions and tiny pictures still give exactly the model's window."""
    for resize in ("squash", "shortest-side", "letterbox"):
        spec = replace(CROP, resize=resize, decode="exact")
        assert decode(encoded(Image.new("RGB", size)), spec, max_pixels=MANY).shape == (224, 224, 3)


STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}
"""How a camera stores an upright picture under each EXIF orientation, by the figures of EXIF 2.32; not by Pillow."""

Resize = Literal["squash", "shortest-side", "letterbox"]

ORIENTED: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "MPO": {"quality": 100, "subsampling": 0, "save_all": True},
    "PNG": {},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4", "speed": 10},
    "TIFF": {},
}
"""Formats that carry an orientation, and how each is written exactly. Pillow turns TIFFs; AVIF has boxes of its own."""

PLAIN = ("GIF", "BMP", "JPEG2000", "PPM")
"""Formats without an orientation."""


def oriented(form: str, stored: Image.Image, orientation: int, **options: Any) -> bytes:
    """Encode a picture under an orientation, as exactly as the format can."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    more = {"append_images": [stored]} if form == "MPO" else {}
    return encoded(
        stored, form, **({"exif": exif} if form in ORIENTED else {}), **ORIENTED.get(form, {}), **more, **options
    )


def reference(upright: np.ndarray, resize: Resize) -> np.ndarray:
    """Fit 150 x 100 pixels, or 100 x 150, into 64 x 64 by numbers worked out by hand."""
    picture, wide = Image.fromarray(np.ascontiguousarray(upright)), upright.shape[1] == 150
    if resize == "squash":
        return np.asarray(picture.resize((64, 64), Image.Resampling.BILINEAR))
    if resize == "shortest-side":
        # 72 x 108, whose margins are 4 and 22.
        size, box = ((108, 72), (22, 4, 86, 68)) if wide else ((72, 108), (4, 22, 68, 86))
        return np.asarray(picture.resize(size, Image.Resampling.BILINEAR).crop(box))
    # 64 x 43, above and below which are 10 and 11 black rows; halves are rounded to even numbers.
    canvas = np.zeros((64, 64, 3), np.uint8)
    if wide:
        canvas[10:53] = np.asarray(picture.resize((64, 43), Image.Resampling.BILINEAR))
    else:
        canvas[:, 10:53] = np.asarray(picture.resize((43, 64), Image.Resampling.BILINEAR))
    return canvas


@pytest.mark.parametrize("form", [*ORIENTED, *PLAIN])
@pytest.mark.parametrize("resize", ["squash", "shortest-side", "letterbox"])
def test_every_format_orientation_and_resize_is_the_reference(form: str, resize: Resize) -> None:
    """A turned picture is placed by its upright size, whenever its decoder turns it.

    With `exif_orientation: false` it is as stored, but for a TIFF, which Pillow always turns, as in Keras.
    """
    side = 72 if resize == "shortest-side" else None
    crop: Literal["center", "none"] = "center" if side else "none"
    spec = InputSpec(64, 64, resize, side, "bilinear", crop, exif_orientation=True, decode="exact")
    upright = np.asarray(noise(150, 100).quantize(64).convert("RGB"))
    exact = 6 if form in {"JPEG", "MPO", "AVIF"} else 0
    for orientation, store in STORED.items() if form in ORIENTED else [(1, STORED[1])]:
        stored = np.ascontiguousarray(store(upright))
        data = oriented(form, Image.fromarray(stored), orientation)
        found = decode(data, spec, max_pixels=MANY, formats=FORMATS).astype(int)
        assert np.abs(found - reference(upright, resize)).max() <= exact, orientation
        ignoring = replace(spec, exif_orientation=False)
        as_stored = decode(data, ignoring, max_pixels=MANY, formats=FORMATS).astype(int)
        expected = reference(upright if form == "TIFF" else stored, resize)
        assert np.abs(as_stored - expected).max() <= exact, orientation


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("spec", [SQUASH, CROP], ids=["squash", "crop"])
def test_exif_orientation_is_undone(orientation: int, spec: InputSpec) -> None:
    """However the camera was held, the pixels are those of the upright picture, on the draft path too."""
    upright = noise(320, 200)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(upright))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"quality": 100, "subsampling": 0}
    expected = decode(encoded(upright, "JPEG", **lossless), spec, max_pixels=MANY)
    found = decode(encoded(stored, "JPEG", exif=exif, **lossless), spec, max_pixels=MANY)
    # JPEG blocks of a turned picture round differently, by a grey level or two.
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 6
    ignoring = decode(
        encoded(stored, "JPEG", exif=exif, **lossless), replace(spec, exif_orientation=False), max_pixels=MANY
    )
    assert (orientation == 1) == bool(np.abs(ignoring.astype(int) - expected.astype(int)).max() <= 6)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg", "tiff_adobe_deflate"])
def test_turned_tiffs_of_every_compression_are_placed_upright(compression: str) -> None:
    """Pillow's own decoder and libtiff's turn the picture at different moments."""
    upright = noise(320, 200)
    turned = oriented("TIFF", upright.transpose(Image.Transpose.ROTATE_90), 6, compression=compression)
    expected = decode(encoded(upright), CROP, max_pixels=MANY).astype(int)
    found = decode(turned, CROP, max_pixels=MANY).astype(int)
    assert np.abs(found - expected).mean() <= (2 if compression == "jpeg" else 0)


@pytest.mark.parametrize("late", [False, True], ids=["before the data", "after the data"])
def test_orientation_of_a_png_is_found_wherever_its_chunk_is(late: bool) -> None:
    """A PNG may name its orientation after its pixels."""
    upright = noise(320, 200)
    data = oriented("PNG", upright.transpose(Image.Transpose.ROTATE_90), 6)
    chunk = data.index(b"eXIf") - 4
    end = chunk + 12 + int.from_bytes(data[chunk : chunk + 4], "big")
    rest = data[:chunk] + data[end:]
    trailer = rest.index(b"IEND") - 4
    moved = rest[:trailer] + data[chunk:end] + rest[trailer:]
    expected = decode(encoded(upright), CROP, max_pixels=MANY)
    np.testing.assert_array_equal(decode(moved if late else data, CROP, max_pixels=MANY), expected)


def test_orientation_of_a_tiff_in_xmp_alone_is_undone() -> None:
    """Without the tag the size before loading is the stored one; the picture is turned all the same."""
    upright = noise(320, 200)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    data = encoded(upright.transpose(Image.Transpose.ROTATE_90), "TIFF", tiffinfo={700: xmp})
    np.testing.assert_array_equal(decode(data, CROP, max_pixels=MANY), decode(encoded(upright), CROP, max_pixels=MANY))


@pytest.mark.parametrize("turned", [False, True])
def test_limits_hold_for_a_turned_picture_too(turned: bool) -> None:
    """Pixels are counted alike however the picture is stored."""
    stored = noise(200, 100).transpose(Image.Transpose.ROTATE_90) if turned else noise(200, 100)
    data = oriented("TIFF", stored, 6 if turned else 1)
    assert decode(data, SQUASH, max_pixels=20_000).shape == (32, 24, 3)
    with pytest.raises(ImageTooLarge):
        decode(data, SQUASH, max_pixels=19_999)


def test_draft_is_close_to_the_full_decode() -> None:
    """Scaled JPEG decoding moves pixels by less than half a grey level on average."""
    photo = Image.open(EXAMPLES / "coffee.jpg").resize((3000, 2000))
    large = encoded(photo, "JPEG", quality=90)
    full = decode(large, replace(CROP, decode="exact"), max_pixels=MANY).astype(int)
    draft = decode(large, CROP, max_pixels=MANY).astype(int)
    assert np.abs(full - draft).mean() < 0.5


@pytest.mark.parametrize(
    ("way", "digest"),
    [("exact", "35077ddd29eb3a00"), ("balanced", "e8077aa569e2547d"), ("fast", "515fa9f54d6cbc5b")],
)
def test_each_way_of_decoding_has_had_these_pixels_since_it_exists(way: Decode, digest: str) -> None:
    """Vectors of models in use depend on them: a change of the first two needs another name."""
    spec = InputSpec(64, 64, "shortest-side", 96, "bilinear", "center", exif_orientation=True, decode=way)
    pixels = decode((EXAMPLES / "coffee.jpg").read_bytes(), spec, max_pixels=MANY)
    assert sha256(pixels.tobytes()).hexdigest()[:16] == digest


SHAPES = [(1, 1), (2, 3), (1, 900), (5000, 1), (300, 9000), (100, 120), (255, 257), (256, 256), (511, 384), (227, 600)]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("resize", ["squash", "shortest-side", "letterbox"])
def test_fast_is_balanced_within_a_grey_level(interpolation: Interpolation, resize: Resize) -> None:
    """Whatever the shape and the contrast; equal where Pillow has to resize."""
    side = 256 if resize == "shortest-side" else None
    spec = InputSpec(224, 192, resize, side, interpolation, "none", exif_orientation=True)
    for width, height in SHAPES:
        values = np.random.default_rng(width).integers(0, 2, (height, width, 3), np.uint8) * 255
        data = encoded(Image.fromarray(values), "BMP")
        expected = decode(data, spec, max_pixels=MANY).astype(int)
        found = decode(data, replace(spec, decode="fast"), max_pixels=MANY).astype(int)
        assert np.abs(found - expected).max() <= (1 if interpolation == "bilinear" else 0), (width, height)


@pytest.mark.parametrize("orientation", STORED)
def test_fast_has_the_drafts_and_colours_of_balanced(orientation: int) -> None:
    """A large photo, however the camera was held, and one so large that Pillow averages blocks of it; CMYK and grey."""
    photo = Image.open(EXAMPLES / "coffee.jpg").convert(["RGB", "CMYK", "L"][orientation % 3])
    exif = Image.Exif()
    exif[0x0112] = orientation
    for width, height, side in ((1500, 1100, 224), (1500, 1100, 32)):
        data = encoded(photo.resize((width, height)), "JPEG", exif=exif)
        spec = replace(CROP, height=side, width=side, shortest_side=side + 32)
        expected = decode(data, spec, max_pixels=MANY).astype(int)
        found = decode(data, replace(spec, decode="fast"), max_pixels=MANY).astype(int)
        assert np.abs(found - expected).max() <= 1


def test_fast_without_its_library_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never another way of decoding instead."""
    assert unavailable(replace(CROP, decode="fast")) is None
    monkeypatch.setattr(fast_resizing, "_library", lambda: None)
    assert unavailable(CROP) is None
    told = unavailable(replace(CROP, decode="fast"))
    assert told is not None
    assert "cykooz-resizer" in told
    with pytest.raises(RuntimeError, match="cykooz-resizer"):
        decode(png(), replace(CROP, decode="fast"), max_pixels=MANY)


@pytest.mark.parametrize("form", FORMATS)
def test_formats(form: str) -> None:
    """Every format that we name is decoded."""
    assert decode(encoded(noise(), form), SQUASH, max_pixels=MANY, formats=FORMATS).shape == (32, 24, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_colour_modes_become_rgb_as_keras_does_it(mode: str) -> None:
    """Whatever the mode, the pixels are those of `convert("RGB")`, alpha dropped."""
    picture = noise().convert("L").convert("I").convert("I;16") if mode == "I;16" else noise().convert(mode)
    form = "JPEG" if mode in {"CMYK", "YCbCr"} else "PNG"
    data = encoded(picture, form)
    expected = Image.open(io.BytesIO(data)).convert("RGB").resize((24, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode(data, SQUASH, max_pixels=MANY), np.asarray(expected))


def test_animations_show_their_first_frame() -> None:
    """Of a GIF with two frames the first is embedded."""
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = encoded(red, "GIF", save_all=True, append_images=[blue])
    assert [255, 0, 0] == decode(data, SQUASH, max_pixels=MANY)[0, 0].tolist()


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", NotAnImage, "0 bytes"),
        (b"\1\2\3\4 no image", NotAnImage, "13 bytes"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", NotAnImage, "formats"),
        (png()[:-200], BrokenImage, "truncated"),
        (encoded(noise(400, 300), "JPEG")[:3000], BrokenImage, "truncated"),
        (png()[:60] + b"\0" * 40 + png()[100:], BrokenImage, "corrupt"),
        (png(width=200, height=100), ImageTooLarge, "200 x 100"),
    ],
    ids=["empty", "unknown", "eps", "truncated png", "truncated jpeg", "corrupt png", "too many pixels"],
)
def test_bad_images_are_named(data: bytes, error: type[ServiceError], words: str) -> None:
    """What cannot be decoded says why, in words for the caller."""
    with pytest.raises(error, match=words):
        decode(data, SQUASH, max_pixels=10_000 if error is ImageTooLarge else MANY)


def test_a_bomb_is_refused_on_its_header() -> None:
    """A small file of 400 million pixels is refused, whatever Pillow itself thinks of it."""
    bomb = encoded(Image.new("1", (20_000, 20_000)))
    with pytest.raises(ImageTooLarge):
        decode(bomb, SQUASH, max_pixels=50_000_000)


def test_long_strips_are_cropped_before_they_are_resized() -> None:
    """The middle of a strip is the same picture either way, and 1 x 60,000 pixels never become billions."""
    spec = replace(CROP, decode="exact")
    strip = noise(30, 1200)
    expected = strip.resize((256, 10_240), Image.Resampling.BILINEAR).crop((16, 5008, 240, 5232))
    found = decode(encoded(strip), spec, max_pixels=MANY).astype(int)
    assert np.abs(found - np.asarray(expected).astype(int)).max() <= 2
    assert decode(encoded(Image.new("RGB", (1, 60_000))), spec, max_pixels=MANY).shape == (224, 224, 3)


def test_place_never_asks_for_an_empty_image() -> None:
    """A line of one pixel's height keeps at least one pixel when letterboxed."""
    assert min(place((10_000, 1), replace(SQUASH, resize="letterbox")).size) == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
@pytest.mark.parametrize(("color", "keras_mode"), [("gray", "L"), ("rgba", "RGBA")])
def test_other_colours_are_those_of_pillow(mode: str, color: Color, keras_mode: str) -> None:
    """Grey is Pillow's `L`; what has no opacity is opaque; of `I;16` it is what Pillow makes of it."""
    picture = noise(40, 30).convert("L").convert(mode) if mode == "I;16" else noise(40, 30).convert(mode)
    if mode in {"LA", "RGBA"}:
        picture.putalpha(noise(40, 30).getchannel(1))
    data = encoded(picture, "TIFF" if mode in {"CMYK", "YCbCr"} else "PNG")
    spec = replace(SQUASH, color=color)
    stored = Image.open(io.BytesIO(data)).convert(keras_mode).resize((24, 32), Image.Resampling.BILINEAR)
    found = decode(data, spec, max_pixels=MANY)
    np.testing.assert_array_equal(found, np.asarray(stored).reshape(32, 24, -1))
    assert found.shape == spec.shape
    if color == "rgba" and mode == "RGB":
        assert (found[..., 3] == 255).all()


def test_opacity_around_a_letterbox_is_none() -> None:
    """Opaque photos stay opaque; what the letterbox adds is transparent black."""
    spec = replace(SQUASH, resize="letterbox", height=32, width=32, color="rgba")
    found = decode(encoded(noise(64, 32)), spec, max_pixels=MANY)
    assert (found[8:24, :, 3] == 255).all()
    assert not found[:8].any()
    assert not found[24:].any()


@pytest.mark.parametrize(("channels", "color"), [(1, "gray"), (3, "rgb"), (4, "rgba")])
def test_pixels_of_a_tensor_are_read_in_every_colour(channels: int, color: Color) -> None:
    """As the Open Inference Protocol sends them, whichever formats are on."""
    pixels = np.random.default_rng(1).integers(0, 256, (32, 24, channels), np.uint8)
    data = RAW_PIXELS[channels] + b"24 32 255\n" + pixels.tobytes()
    found = decode(data, replace(SQUASH, color=color), max_pixels=MANY, formats=["JPEG"])
    np.testing.assert_array_equal(found, pixels)
