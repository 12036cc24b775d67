"""Damaged files of every format: whatever is done to them, pixels or one of three errors, and never much memory."""

import io
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from microtome.errors import BrokenImage, ImageTooLarge, NotAnImage
from microtome.manifest import InputSpec
from microtome.opening import FORMATS
from microtome.preprocessing import decode
from tests.pictures import encoded, noise

MAX_PIXELS = 1_000_000
MOST_MEMORY_KB = 150_000
"""What all these decodings together may add to the process' peak; a million pixels are 4 MB, before Pillow's copies."""

SPEC = InputSpec(64, 64, "shortest-side", 72, "bilinear", "center", exif_orientation=True, decode="balanced")


def _files() -> list[bytes]:
    """Real files: this repository's photos, and a small picture in each format, mode and layout."""
    photos = sorted((Path(__file__).parents[3] / "examples").glob("*.jpg"))
    picture = noise(90, 70)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [
        encoded(picture, "JPEG", quality=80, exif=exif),
        encoded(picture, "JPEG", progressive=True),
        encoded(picture.convert("CMYK"), "JPEG"),
        encoded(picture.convert("L"), "JPEG"),
        encoded(picture),
        encoded(picture.convert("RGBA")),
        encoded(picture.quantize(16)),
        encoded(picture.convert("1")),
        encoded(Image.fromarray(np.arange(6300, dtype=np.uint16).reshape(70, 90) * 10)),
        encoded(picture, "GIF"),
        encoded(picture, "GIF", save_all=True, append_images=[noise(90, 70, seed) for seed in (1, 2)]),
        encoded(picture, "PNG", save_all=True, append_images=[noise(90, 70, 1)]),
        encoded(picture, "BMP"),
        encoded(picture, "PPM"),
        *(encoded(picture, "TIFF", compression=name) for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg")),
    ]
    for form, feature in (("WEBP", "webp"), ("AVIF", "avif"), ("JPEG2000", "jpg_2000")):
        if features.check(feature):
            made.append(encoded(picture, form))
    return [photo.read_bytes() for photo in photos] + made


FILES = _files()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real file after one to four accidents."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(1, 4))):
        # Headers are where a small change asks for much.
        reach = len(data) if draw(st.booleans()) else min(len(data), 200)
        start = draw(st.integers(0, max(0, reach - 1)))
        end = min(len(data), start + draw(st.integers(1, 64)))
        match draw(st.sampled_from(["overwrite", "flip", "cut", "truncate", "repeat", "insert", "splice"])):
            case "overwrite":
                data[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
            case "flip":
                data[start:end] = bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in data[start : start + 1])
            case "cut":
                del data[start:end]
            case "truncate":
                del data[start:]
            case "repeat":
                data[start:start] = data[start:end] * draw(st.integers(1, 50))
            case "insert":
                data[start:start] = draw(st.sampled_from([b"\0", b"\xff", b"\xff\xff\xff\x7f", b"\xff\xd8"])) * 4
            case "splice":
                data[start:] = draw(st.sampled_from(FILES))[start:]
    return bytes(data)


@pytest.mark.filterwarnings("ignore")  # as in the gateway, where Pillow's warnings are no errors
@settings(max_examples=250, deadline=None)
@given(damaged())
@example(b"\xff\xd8\xff")
@example(b"GIF89a" + b"\xff" * 20)
def test_a_damaged_file_is_pixels_or_an_error_of_ours(data: bytes) -> None:
    """Nothing else comes out of the decoder, and the process' memory stays where it was."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        pixels = decode(data, SPEC, max_pixels=MAX_PIXELS, formats=FORMATS)
    except (NotAnImage, BrokenImage, ImageTooLarge):
        pass
    else:
        assert (64, 64, 3) == pixels.shape
        assert np.uint8 == pixels.dtype
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY_KB


def test_the_files_are_whole_before_they_are_damaged() -> None:
    """Each of them decodes, so that it is the damage that is tried."""
    for data in FILES:
        with Image.open(io.BytesIO(data)) as image:
            assert image.size
        assert (64, 64, 3) == decode(data, SPEC, max_pixels=MAX_PIXELS, formats=FORMATS).shape
