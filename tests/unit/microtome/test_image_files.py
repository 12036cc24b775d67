"""A fault of metadata refuses no picture, and what is no picture is named."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from microtome.errors import BrokenImage, ImageTooLarge, NotAnImage, RequestRejected
from microtome.image_files import MOST_PARTS, exif_orientation, jpeg_scans, without_metadata
from microtome.manifest import InputSpec
from microtome.opening import FORMATS
from microtome.preprocessing import decode
from tests.pictures import encoded, noise

SPEC = InputSpec(30, 40, "squash", None, "nearest", "none", exif_orientation=True, decode="exact")
PICTURE = noise()

# Pillow warns of what is wrong with the metadata.
pytestmark = pytest.mark.filterwarnings("ignore")


def pixels(data: bytes) -> np.ndarray:
    """Decode a picture of 40 x 30 pixels."""
    return decode(data, SPEC, max_pixels=10**6, formats=FORMATS)


def exif(*entries: tuple[int, int, int, bytes], rest: bytes = b"") -> bytes:
    """Write EXIF data of these entries: tag, type, number of values, value."""
    table = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(4) + rest


EXIF = {
    "garbage": b"garbage!",
    "cut": b"II*\0\x08\0\0\0\5\0",
    "two bytes": b"II",
    "beyond the end": b"MM\0*\xff\xff\xff\xff",
    "BigTIFF": b"II+\0\x08\0\0\0" + b"\xff" * 8,
    "orientation 0": exif((0x112, 3, 1, bytes(4))),
    "orientation 9": exif((0x112, 3, 1, b"\x09\0\0\0")),
    "orientation as text": exif((0x112, 2, 2, b"6\0\0\0")),
    "orientation without values": exif((0x112, 3, 0, b"\6\0\0\0")),
    "a thousand orientations": exif((0x112, 5, 1000, b"\x1a\0\0\0"), rest=bytes(8000)),
    "resolution 0/0": exif((0x11A, 5, 1, b"\x1a\0\0\0"), (0x128, 3, 1, b"\2\0\0\0"), rest=bytes(8)),
    "resolution as text": exif((0x11A, 2, 4, b"abc\0"), (0x128, 3, 1, b"\2\0\0\0")),
    "a directory in itself": exif((0x8769, 4, 1, b"\x08\0\0\0")),
}


def chunk(kind: bytes, data: bytes, *, damaged: bool = False) -> bytes:
    """Write a PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ damaged)


def png_with(*chunks: bytes, late: bool = False) -> bytes:
    """Write a PNG with more chunks, before its pixels or after them."""
    data = encoded(PICTURE)
    at = data.index(b"IEND" if late else b"IDAT") - 4
    return data[:at] + b"".join(chunks) + data[at:]


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    """Write a JPEG with more segments at its beginning."""
    data = encoded(PICTURE, "JPEG", quality=95)
    return (
        data[:2]
        + b"".join(bytes([255, marker]) + struct.pack(">H", len(s) + 2) + s for marker, s in segments)
        + data[2:]
    )


def tiff_with(tag: int, kind: int, count: int, value: bytes, compression: str) -> bytes:
    """Write a TIFF with another directory, which has one more entry."""
    data = encoded(PICTURE, "TIFF", compression=compression)
    (at,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, at)
    table = [data[at + 2 + 12 * number : at + 14 + 12 * number] for number in range(entries)]
    table = sorted([*table, struct.pack("<HHI", tag, kind, count) + value], key=lambda entry: entry[1::-1])
    return (
        data[:4] + struct.pack("<I", len(data)) + data[8:] + struct.pack("<H", len(table)) + b"".join(table) + bytes(4)
    )


def faulty() -> Iterator[tuple[str, bytes]]:
    """Yield sound pictures with faults of all kinds in their metadata."""
    for name, data in EXIF.items():
        yield f"PNG, EXIF {name}", png_with(chunk(b"eXIf", data))
        yield f"JPEG, EXIF {name}", jpeg_with((0xE1, b"Exif\0\0" + data))
        yield f"WEBP, EXIF {name}", encoded(PICTURE, "WEBP", lossless=True, exif=data)
    large = zlib.compress(bytes(2 << 20))
    for kind, data in (
        (b"iCCP", b"x"), (b"iCCP", b"name\0\1abc"), (b"iCCP", b"name\0\0" + large), (b"gAMA", b"\1"), (b"cHRM", b"\1"),
        (b"sRGB", b""), (b"pHYs", b"\1\2"), (b"tRNS", b"\1"), (b"acTL", bytes(1)), (b"fcTL", bytes(26)), (b"fcTL", b""),
        (b"fdAT", bytes(1)), (b"zTXt", b"k\0\1abc"), (b"zTXt", b"k\0\0" + large), (b"iTXt", b"k\0\1\0\0\0" + large),
        (b"tEXt", b"Raw profile type exif\0\nexif\n 10\nzzzz\n"),
    ):  # fmt: skip
        for late in (False, True):
            yield f"PNG, {kind.decode()} of {len(data)} bytes, late: {late}", png_with(chunk(kind, data), late=late)
    for kind in (b"tEXt", b"tIME", b"iCCP", b"bKGD"):
        yield f"PNG, {kind.decode()} with a wrong sum", png_with(chunk(kind, b"abc", damaged=True))
    yield "PNG, text cut off after the picture", png_with(chunk(b"tEXt", b"k\0" + b"a" * 100), late=True)[:-60]
    yield "PNG, no end", encoded(PICTURE)[:-12]
    for marker, data in (
        (0xE0, b"JFIF"), (0xEE, b"Adobe"), (0xE2, b"ICC_PROFILE\0"), (0xE2, b"ICC_PROFILE\0\1\5abc"), (0xE2, b"MPF\0"),
        (0xE2, b"MPF\0II*\0\x08\0\0\0\1\0"), (0xED, b"Photoshop 3.0\x008BIM\0\0"), (0xFE, b""),
        (0xE1, b'http://ns.adobe.com/xap/1.0/\0\xff tiff:Orientation="'),
    ):  # fmt: skip
        yield f"JPEG, {marker:x} {data[:12]!r} of {len(data)} bytes", jpeg_with((marker, data))
    yield "JPEG, filled up", (jpeg := jpeg_with())[:2] + b"\xff" * (1 << 22) + jpeg[2:]
    yield "JPEG, EXIF in twenty parts", jpeg_with(*[(0xE1, b"Exif\0\0" + EXIF["garbage"])] * 20)
    gif = encoded(PICTURE.quantize(32), "GIF")
    head = 13 + (6 << (gif[10] & 7))
    for data in (b"!\xf9\1\1\0", b"!\xf9\0", b"!\xff\x0bNETSCAPE2.0\0", b"!\xfe\5abcde\0"):
        yield f"GIF, {data!r}", gif[:head] + data + gif[head:]
    for tag, type_, value in (
        (282, 2, b"abc\0"), (282, 5, b"\xff\xff\xff\x7f"), (34665, 4, b"\xff" * 4), (34853, 2, b"abc\0"),
        (700, 2, b"abc\0"), (34675, 7, b"abc\0"), (274, 5, bytes(4)), (274, 3, b"\x63\0\0\0"), (270, 2, b"abcd"),
        (33723, 4, b"abcd"),
    ):  # fmt: skip
        for compression in ("raw", "tiff_lzw"):
            data = tiff_with(tag, type_, 1 << 28 if tag == 270 else 1, value, compression)
            yield f"TIFF, {compression}, {tag} of type {type_} as {value!r}", data
    turned = Image.Exif()
    turned[0x112] = 6
    turned[0x10F] = "maker"
    avif = encoded(PICTURE, "AVIF", quality=100, subsampling="4:4:4", exif=turned)
    yield "AVIF, EXIF without a header", avif.replace(b"MM\0*", b"XXXX")
    webp = encoded(PICTURE, "WEBP", lossless=True, exif=bytes(200))
    yield "WEBP, cut off after the picture", webp[:-60]


EXACT: dict[str, dict[str, object]] = {
    "PNG": {},
    "JPEG": {"quality": 95},
    "WEBP": {"lossless": True},
    "TIFF": {},
}


@pytest.fixture(scope="module")
def sound() -> dict[str, np.ndarray]:
    """Return the pixels of the picture without metadata, by format."""
    plain = {form: pixels(encoded(PICTURE, form, **options)) for form, options in EXACT.items()}
    return {**plain, "GIF": pixels(encoded(PICTURE.quantize(32), "GIF"))}


def test_a_fault_of_metadata_refuses_no_picture(sound: dict[str, np.ndarray]) -> None:
    """The pixels are those of the same picture without it."""
    wrong = []
    for name, data in faulty():
        form, _, _ = name.partition(",")
        try:
            found = pixels(data)
        except RequestRejected as error:
            wrong.append(f"{name}: {error}")
            continue
        # An AVIF turns its picture by itself, whatever its EXIF data says.
        if form != "AVIF" and not np.array_equal(found, sound[form]):
            wrong.append(f"{name}: differs")
    assert [] == wrong


def test_the_orientation_outlives_other_faults(sound: dict[str, np.ndarray]) -> None:
    """A picture whose metadata is left out is turned all the same."""
    stored = PICTURE.transpose(Image.Transpose.ROTATE_90)
    turned = Image.Exif()
    turned[0x112] = 6
    png = encoded(stored, exif=turned)
    at = png.index(b"IDAT") - 4
    np.testing.assert_array_equal(pixels(png[:at] + chunk(b"sRGB", b"") + png[at:]), sound["PNG"])
    jpeg = encoded(stored, "JPEG", exif=turned, quality=95)
    broken = jpeg[:2] + b"\xff\xee\0\7Adobe" + jpeg[2:]
    np.testing.assert_array_equal(pixels(broken), pixels(jpeg))
    webp = encoded(stored, "WEBP", lossless=True, exif=turned)
    np.testing.assert_array_equal(pixels(without_metadata(webp, "WEBP") or b""), sound["WEBP"])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "code"), [(3, "H"), (4, "I")])
def test_orientation_is_read_in_both_orders(order: str, kind: int, code: str) -> None:
    """Little and big endian, as SHORT and as LONG, after other entries."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(order + "HHI4s", 0x10F, 2, 4, b"abc\0") + struct.pack(order + "HHI", 0x112, kind, 1)
    value = struct.pack(order + code, 6).ljust(4, b"\0")
    data = head + struct.pack(order + "IH", 8, 2) + entries + value + bytes(4)
    assert 6 == exif_orientation(data) == exif_orientation(b"Exif\0\0" + data)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"

FOREIGN = {
    "HEIC": HEIC,
    "HEIC ": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
    "PDF": b"%PDF-1.7\n",
    "PDF ": b"\n\n%PDF-1.4",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "SVG ": b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn -->\n<svg/>',
    "JPEG XL": b"\xff\x0a\0\0",
    "JPEG XL ": b"\0\0\0\x0cJXL \r\n\x87\n",
    "PSD": b"8BPS\0\1",
    "raw": b"II*\0\x10\0\0\0CR\2\0",
    "raw ": b"\0\0\0\x18ftypcrx \0\0\0\1",
    "video": b"\0\0\0\x18ftypmp42\0\0\0\0",
    "video ": b"\x1a\x45\xdf\xa3\1\0",
    "video  ": b"RIFF\0\0\0\0AVI LIST",
    "HTML": b"<!DOCTYPE html><html></html>",
    "JSON": b'{"error": 404}',
    "gzip": b"\x1f\x8b\x08\0",
    "ZIP": b"PK\3\4",
    "ICO": b"\0\0\1\0\1\0",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "base64": b"iVBORw0KGgoAAAANSUhEUg",
    "data URL": b"data:image/png;base64,iVBOR",
}


@pytest.mark.parametrize(("name", "data"), FOREIGN.items())
def test_what_is_no_image_here_is_named(name: str, data: bytes) -> None:
    """The message says what came, and which formats are read."""
    with pytest.raises(NotAnImage, match=name.strip()) as error:
        pixels(data)
    assert "JPEG, PNG" in str(error.value)


@pytest.mark.parametrize("form", ["JPEG2000", "PPM"])
def test_a_format_that_is_off_is_named_with_its_setting(form: str) -> None:
    """JPEG 2000 and PPM are off by default; others can be switched off, and are never tried then."""
    with pytest.raises(NotAnImage, match=rf"{form}.*MICROTOME_FORMATS"):
        decode(encoded(PICTURE, form), SPEC, max_pixels=10**6)
    with pytest.raises(NotAnImage, match=r"formats JPEG\. Received PNG.*MICROTOME_FORMATS"):
        decode(encoded(PICTURE), SPEC, max_pixels=10**6, formats=["JPEG"])


def damaged(form: str, **options: object) -> bytes:
    """Overwrite the middle of a file, which keeps its length and its end."""
    data = encoded(noise(200, 200), form, **options)
    middle = len(data) // 2
    return data[:middle] + b"\x55" * 40 + data[middle + 40 :]


CORRUPT = {
    "PNG": damaged("PNG"),
    "TIFF": damaged("TIFF", compression="tiff_adobe_deflate"),
    "PNG whose header is": b"\x89PNG\r\n\x1a\n" + bytes(13) + encoded(PICTURE)[16:],
    "WEBP": encoded(PICTURE, "WEBP", lossless=True)[:20] + b"\xff" * 60 + encoded(PICTURE, "WEBP", lossless=True)[80:],
}


@pytest.mark.parametrize("data", CORRUPT.values(), ids=CORRUPT)
def test_corrupt_files_are_not_called_truncated(data: bytes) -> None:
    """A file that has its end, and bytes overwritten, is corrupt."""
    with pytest.raises(BrokenImage, match="corrupt"):
        pixels(data)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF", "TIFF"])
def test_half_of_a_file_is_called_truncated(form: str) -> None:
    """Whichever format, the file ends too early, and the message says so."""
    data = encoded(noise(200, 200), form)
    with pytest.raises(BrokenImage, match="truncated"):
        pixels(data[: len(data) // 2])


def test_images_of_another_kind_are_called_neither() -> None:
    """A JPEG of 12 bits and a TIFF of five channels are whole, and say what they are."""
    jpeg = bytearray(encoded(PICTURE, "JPEG"))
    jpeg[jpeg.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(BrokenImage, match=r"of a kind that is not read here.*12-bit"):
        pixels(bytes(jpeg))
    tiff = encoded(PICTURE, "TIFF")
    at = tiff.index(struct.pack("<HHI", 259, 3, 1)) + 8
    with pytest.raises(BrokenImage, match="of a kind that is not read here"):
        pixels(tiff[:at] + struct.pack("<H", 34712) + tiff[at + 2 :])


@pytest.mark.parametrize(
    "data",
    [
        jpeg_with(*[(0xFE, b"")] * (MOST_PARTS + 1)),
        png_with(chunk(b"abCd", b"") * (MOST_PARTS + 1)),
        png_with(chunk(b"abCd", b"") * (MOST_PARTS + 1), late=True),
        b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe\0" * (MOST_PARTS + 1),
        b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe" + b"\1a" * (MOST_PARTS + 1),
        encoded(PICTURE, "WEBP") + b"ANMF\0\0\0\0" * MOST_PARTS,
        encoded(PICTURE, "AVIF") + b"stsz" + bytes(4) + struct.pack(">II", 1, MOST_PARTS + 1),
    ],
    ids=["JPEG", "PNG", "PNG, late", "GIF", "GIF, one comment", "WEBP", "AVIF"],
)
def test_files_of_very_many_parts_are_refused(data: bytes) -> None:
    """Each part costs a loop of the interpreter, which all requests share."""
    with pytest.raises(ImageTooLarge, match=str(MOST_PARTS)):
        pixels(data)


def test_a_tiff_of_very_many_numbers_is_read_without_them(sound: dict[str, np.ndarray]) -> None:
    """A resolution of half a million fractions would be as many objects; strips that many are refused."""
    entry = struct.pack("<I", 8)
    data = tiff_with(282, 5, 500_000, entry, "raw") + bytes(4_000_000)
    np.testing.assert_array_equal(pixels(data), sound["TIFF"])
    with pytest.raises(ImageTooLarge, match="strips"):
        pixels(tiff_with(324, 4, 500_000, entry, "raw") + bytes(2_000_000))


def test_libtiff_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """What libtiff finds in a caller's file stays out of the standard error, where the log is."""
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "zstd", "lzma"):
        with suppress(RequestRejected):
            pixels(damaged("TIFF", compression=compression))
    assert "" == capfd.readouterr().err


@given(st.lists(st.sampled_from([b"\xff", b"\xda", b"\0", b"\xff\xda"]), min_size=3))
def test_scans_are_counted_wherever_they_begin(parts: list[bytes]) -> None:
    """At even places and at odd ones."""
    data = b"".join(parts)
    assert jpeg_scans(data) == data.count(b"\xff\xda")
