"""Open encoded images: sniff the format, bound what its header leads to, and read the header with the one decoder.

Each limit is enforced on the header, before the step it protects, so a decompression bomb is refused while it is small.
"""

import ctypes
import io
import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from microtome.errors import BrokenImage, ImageTooLarge, NotAnImage
from microtome.image_files import foreign, is_cut, jpeg_scans, require_few_parts, sniffed, without_metadata

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Formats that can be decoded. Pillow also opens formats that run an interpreter (EPS) or read other files."""

DEFAULT_FORMATS = FORMATS[:7]
"""What people send. JPEG 2000 holds the interpreter while it is decoded, and parts of PPM are decoded in Python."""

RAW_PIXELS = {1: b"P5 # pixels of a tensor\n", 3: b"P6 # pixels of a tensor\n", 4: b"PyRGBA # pixels of a tensor\n"}
"""How a PPM begins that stands for a caller's tensor, by its channels of 8 bits: not encoded, and read in any case."""

_RAW = tuple(RAW_PIXELS.values())

MAX_SIDE = 65_535
"""Largest side in pixels, as in JPEG. Resampling needs memory in proportion to it, whatever the other side is."""

MAX_SCANS = 200
"""Scans of a progressive JPEG; real ones have about ten. Each costs a pass over the whole picture, and few bytes."""

MANY_PIXELS = 4_000_000
"""Above which a slow decoder works in a process of its own, or not at all."""

TILE_WIDTH, TILE_LENGTH = 322, 323
_SMALL_TILE = 2048 * 2048


def is_raw(encoded: bytes) -> bool:
    """Whether a file stands for a caller's tensor."""
    return encoded.startswith(_RAW)


@contextmanager
def opened(encoded: bytes, max_pixels: int, formats: Collection[str] = DEFAULT_FORMATS) -> Iterator[Image.Image]:
    """Read the header of an image, and refuse what is no image or too large.

    Args:
        encoded: the file's bytes.
        max_pixels: width times height above which the image is refused.
        formats: those of `FORMATS` that are read.

    Raises:
        NotAnImage: in none of the formats.
        BrokenImage: the header is damaged in a way that its decoder notices.
        ImageTooLarge: more pixels, a longer side, more parts, scans or larger tiles than the limits.
    """
    if not encoded:
        raise NotAnImage("Expected an encoded image, received 0 bytes.")
    raw = is_raw(encoded)
    kind = "PPM" if raw else sniffed(encoded)
    if kind is None or (kind not in formats and not raw):
        raise NotAnImage(_not_read(encoded, kind, formats))
    # Of a TIFF the decoder never sees more than the picture: its metadata has the same form and no bound.
    whole = require_few_parts(encoded, kind) and kind != "TIFF"
    data = encoded if whole else without_metadata(encoded, kind) or encoded
    try:
        image = read_header(data, kind)
    except SyntaxError as error:
        plain = without_metadata(encoded, kind) if whole else None
        if plain is None:
            raise broken(kind, error, encoded) from error
        try:
            image = read_header(plain, kind)
        except SyntaxError:
            raise broken(kind, error, encoded) from error
    with image:
        _check_size(image, max_pixels)
        _check_cost(image, encoded)
        yield image


def read_header(data: bytes, kind: str) -> Image.Image:
    """Open a file with the one decoder of its format.

    Raises:
        SyntaxError: the header is damaged; for whatever the decoder raised.
        ImageTooLarge: by Pillow's own limit.
    """
    _prepare(kind)
    try:
        # Image.open would drop what is wrong.
        return Image.OPEN[kind][0](io.BytesIO(data), "")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLarge("Expected fewer pixels than Pillow allows; received many times more.") from None
    except SyntaxError:
        raise
    except Exception as error:
        # Decoders meet damaged headers with nearly any exception type.
        raise SyntaxError(str(error)) from error


_PLUGINS = {
    "WEBP": "WebPImagePlugin",
    "TIFF": "TiffImagePlugin",
    "AVIF": "AvifImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
}
"""Modules of the decoders that Pillow does not import at its start."""


@cache
def _prepare(kind: str) -> None:
    """Import a format's decoder, and set what it does beside decoding."""
    # Without a handler of its own, what Pillow logs of callers' files would go to the standard error.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    Image.preinit()
    # Image.init would import all decoders that Pillow has.
    plugin: Any = import_module(f"PIL.{_PLUGINS[kind]}") if kind in _PLUGINS else None
    if kind == "AVIF":
        # A thread for each core, for each image, would multiply threads and memory; the callers' threads are enough.
        plugin.DEFAULT_MAX_THREADS = 1
    elif kind == "TIFF":
        _silence_libtiff()


def _silence_libtiff() -> None:
    """Stop libtiff from writing what it finds to the process' standard error, which has the log."""
    with suppress(OSError, AttributeError, IndexError):
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        libtiff = ctypes.CDLL(re.findall(r"\S+/libtiff[^/\s]*\.so\S*", mapped)[0])
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(libtiff, name)
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)


def _not_read(encoded: bytes, kind: str | None, formats: Collection[str]) -> str:
    read = ", ".join(name for name in FORMATS if name in formats)
    if kind is not None:
        return (
            f"Expected an image in one of the formats {read}. Received {kind}, which is switched off "
            "here: the gateway's setting MICROTOME_FORMATS lists the formats that it reads."
        )
    name = foreign(encoded)
    if name is None:
        return f"Expected an image in one of the formats {read}. Received {len(encoded)} bytes that are none of them."
    advice = "" if ": " in name else " Convert it to JPEG or PNG."
    return f"Expected an image in one of the formats {read}. Received {name}.{advice}"


_NOT_READ = re.compile(
    r"cannot handle|unknown pixel mode|unknown data organization|unsupported|not (?:yet )?supported|not available"
    r"|not configured|samples per pixel|unknown raw mode|unrecognized image mode",
    re.IGNORECASE,
)
"""Pillow's words for images that are whole, but of a kind that it does not decode."""


def broken(kind: str, error: BaseException, encoded: bytes) -> BrokenImage:
    """Word a decoder's error for the caller; decoders' own messages are for their authors."""
    cause = error.__cause__ or error
    if _NOT_READ.search(str(error)) or (kind == "TIFF" and isinstance(cause, KeyError)):
        return BrokenImage(
            f"The {kind} image is of a kind that is not read here ({str(error)[:60]}). "
            "Save it as RGB with 8 bits a channel, or as PNG."
        )
    if is_cut(encoded, kind):
        return BrokenImage(
            f"The {kind} image is truncated: the file ends before the picture does. Send the whole file."
        )
    return BrokenImage(f"The {kind} image is corrupt and cannot be decoded.")


def is_run_length(image: Image.Image) -> bool:
    """Whether a BMP is compressed in the way that is decoded in Python."""
    return any(tile[0] == "bmp_rle" for tile in getattr(image, "tile", ()))


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"Expected at most {max_pixels} pixels, received {width} x {height} = {width * height}. "
            "Send a smaller copy: the model sees far fewer."
        )
    if max(width, height) > MAX_SIDE:
        raise ImageTooLarge(f"Expected sides of at most {MAX_SIDE} pixels, received {width} x {height}.")


def _check_cost(image: Image.Image, encoded: bytes) -> None:
    if image.format in {"JPEG", "MPO"}:
        if (scans := jpeg_scans(encoded)) > MAX_SCANS:
            raise ImageTooLarge(f"Expected a JPEG of at most {MAX_SCANS} scans, received {scans}.")
    elif image.format == "BMP":
        if is_run_length(image) and image.width * image.height > MANY_PIXELS:
            raise ImageTooLarge(
                f"Expected a run-length encoded BMP of at most {MANY_PIXELS} pixels, received "
                f"{image.width} x {image.height}. Save it without compression, or as PNG."
            )
    elif image.format == "TIFF":
        # libtiff decodes whole tiles, also where they reach far beyond the picture.
        tags = getattr(image, "tag_v2", {})
        width, length = (tags.get(tag, 0) for tag in (TILE_WIDTH, TILE_LENGTH))
        room = max(_SMALL_TILE, 4 * image.width * image.height)
        if isinstance(width, int) and isinstance(length, int) and width * length > room:
            raise ImageTooLarge(f"Expected tiles no larger than the picture, received {width} x {length} pixels.")
