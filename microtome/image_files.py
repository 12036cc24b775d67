"""Containers of image files: tell a format by its first bytes, read the orientation, and leave metadata out.

A decoder needs a few parts of a file; Pillow reads all of them, in Python, and refuses the file for a fault in any. So
`without_metadata` writes the same picture without the parts that do not make its pixels. The functions here read
headers only, are linear in the bytes, and look at no more than `MOST_PARTS` parts of a file.

Sources: ITU-T T.81 annex B (JPEG), PNG 1.2 §5, GIF89a, TIFF 6.0 §2, EXIF 2.32 §4.6, ISO/IEC 23008-12 (HEIF).
"""

import re
import struct
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import numpy as np

from microtome.errors import ImageTooLarge

MOST_PARTS = 16_384
"""Segments, chunks or blocks of a file before Pillow's loops over them, which hold the interpreter, are too long. A
PNG of 20 MB in pieces of 8 KB has 2,560; a JPEG has some 20, and 300 with the largest colour profile."""

_BRANDS_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_BRANDS_AVIF = frozenset({b"avif", b"avis"})
_BRANDS_CONTAINER = frozenset({b"mif1", b"msf1", b"mif2", b"miaf"})

_TIFF_PREFIXES = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0")

_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cjP  \x0d\x0a\x87\x0a", "JPEG2000"),
)

_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a", "JPEG XL"),
    (0, b"8BPS", "a Photoshop document (PSD)"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"gimp xcf", "a GIMP document (XCF)"),
    (0, b"\0\0\1\0", "a Windows icon (ICO)"),
    (0, b"\0\0\2\0", "a Windows cursor (CUR)"),
    (0, b"icns", "an icon (ICNS)"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "a texture (DDS)"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file (RAF)"),
    (0, b"IIU\0", "a camera's raw file (RW2)"),
    (0, b"IIRO", "a camera's raw file (ORF)"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
    (40, b" EMF", "a Windows metafile (EMF)"),
    (0, b"\x8aMNG", "MNG, an animation"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)"),
    (0, b"FLV\1", "a video (FLV)"),
    (0, b"\0\0\1\xba", "a video (MPEG)"),
    (0, b"\0\0\1\xb3", "a video (MPEG)"),
    (0, b"OggS", "audio or video (Ogg)"),
    (0, b"ID3", "audio (MP3)"),
    (0, b"fLaC", "audio (FLAC)"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ\0", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"PK\3\4", "a ZIP archive or an office document"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x7fELF", "a program"),
    (0, b"data:", "a data URL: send the bytes that its base64 stands for"),
    (0, b"/9j/", "base64 of a JPEG: send the bytes that it stands for"),
    (0, b"iVBORw0KGgo", "base64 of a PNG: send the bytes that it stands for"),
    (0, b"R0lGOD", "base64 of a GIF: send the bytes that it stands for"),
    (0, b"UklGR", "base64 of a WebP: send the bytes that it stands for"),
)


def sniffed(data: bytes) -> str | None:  # noqa: PLR0911, one for each kind of signature
    """Return Pillow's name of the format that a file begins like, of those that can be switched on; else None."""
    for magic, name in _FORMATS:
        if data.startswith(magic):
            return name
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] in _TIFF_PREFIXES:
        return "TIFF" if data[8:10] != b"CR" else None
    if data[4:8] == b"ftyp":
        return "AVIF" if _brands(data)[0] in _BRANDS_AVIF or _is_avif_container(data) else None
    if data.startswith(b"BM") and len(data) > 14:
        return "BMP"
    if data[:1] == b"P" and data[1:2] in b"123456fy" and data[2:3].isspace():
        return "PPM"
    return None


def foreign(data: bytes) -> str | None:  # noqa: PLR0911, one for each kind of signature
    """Return in words what a file is that no decoder here reads, if its first bytes tell."""
    for at, magic, name in _FOREIGN:
        if data.startswith(magic, at):
            return name
    if data[4:8] == b"ftyp":
        return _of_brands(data)
    if data[:4] in _TIFF_PREFIXES:
        return "a camera's raw file (CR2)"
    if data.startswith(b"RIFF"):
        return {b"AVI ": "a video (AVI)", b"WAVE": "audio (WAV)"}.get(data[8:12])
    head = data[:1024]
    if b"%PDF-" in head:
        return "a PDF document"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in data[:65_536].lower():
        return "SVG, a drawing"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script")):
        return "an HTML page"
    if text.startswith(b"<?xml"):
        return "XML"
    return "JSON" if text.startswith((b'{"', b"[{", b'["', b"{\n", b"{ ")) else None


def _brands(data: bytes) -> list[bytes]:
    """Return the brands of an ISO base media file, the major one first."""
    size = min(int.from_bytes(data[:4], "big"), 256)
    return [data[8:12], *(data[at : at + 4] for at in range(16, size, 4))]


def _is_avif_container(data: bytes) -> bool:
    brands = _brands(data)
    return brands[0] in _BRANDS_CONTAINER and not _BRANDS_AVIF.isdisjoint(brands)


def _of_brands(data: bytes) -> str:
    brands = _brands(data)
    if not _BRANDS_HEIC.isdisjoint(brands) or brands[0] in _BRANDS_CONTAINER:
        return "HEIC (HEIF), as iPhones write it"
    return "a camera's raw file (CR3)" if brands[0] == b"crx " else "a video (MP4 or QuickTime)"


def require_few_parts(data: bytes, kind: str) -> bool:
    """Bound the parts that Pillow loops over, or that a decoder keeps in memory before the size is known.

    Returns:
        False where the metadata alone would cost too much, so that it must be left out.

    Raises:
        ImageTooLarge: the file has too many parts.
    """
    match kind:
        case "JPEG":
            # Pillow joins parts of EXIF data again and again, and passes over bytes between segments one by one.
            last, between, exif = 2, 0, 0
            for marker, start, end in _jpeg_segments(data):
                between, last = between + start - last, end
                exif += marker == 0xE1 and data[start + 4 : start + 8] == b"Exif"
            return exif <= _MOST_EXIF and between <= _MOST_BETWEEN
        case "PNG":
            for _ in _png_chunks(data):
                pass
        case "WEBP":
            for _ in _webp_chunks(data):
                pass
        case "GIF":
            _gif_picture(data)
        case "AVIF":
            # A table of a few bytes can stand for millions of frames.
            for found in re.finditer(rb"stsz.{8}(.{4})", data, re.DOTALL):
                _bounded(int.from_bytes(found[1], "big"), kind, "frames")
    return True


_MOST_EXIF = 16
_MOST_BETWEEN = 4096


def _bounded(count: int, kind: str, what: str) -> None:
    if count > MOST_PARTS:
        raise ImageTooLarge(
            f"Expected at most {MOST_PARTS} {what} in {kind}. Save the picture again with another program."
        )


def without_metadata(data: bytes, kind: str) -> bytes | None:  # noqa: PLR0911, one for each format
    """Return the same picture without what does not make its pixels; None for formats where that is not known.

    Kept is the orientation, where it can be read. Never raises for damaged data, which it keeps or leaves out.

    Raises:
        ImageTooLarge: the file has too many parts.
    """
    try:
        match kind:
            case "JPEG":
                return _plain_jpeg(data)
            case "PNG":
                return _plain_png(data)
            case "GIF":
                return data[: 13 + _gif_table(data[10])] + data[_gif_picture(data) :]
            case "TIFF":
                return _plain_tiff(data)
            case "WEBP":
                return _plain_webp(data)
            case "AVIF":
                # libavif reads items of the type Exif only; this makes it one that is skipped.
                return re.sub(rb"(infe\x02\0\0[\0\1]..\0\0)Exif", rb"\1skip", data, count=1, flags=re.DOTALL)
            case _:
                return None
    except (struct.error, IndexError, OverflowError):
        return None


def is_cut(data: bytes, kind: str) -> bool:  # noqa: PLR0911, one for each format
    """Whether a file that cannot be decoded ends before its format says that it does."""
    try:
        match kind:
            case "JPEG":
                scan = next((at for marker, at, _ in _jpeg_segments(data) if marker == 0xDA), None)
                return data.find(b"\xff\xd9", scan or max(0, len(data) - 64)) < 0
            case "PNG":
                return _PNG_END not in data
            case "GIF":
                return not data.rstrip(b"\0").endswith(b";")
            case "WEBP":
                return int.from_bytes(data[4:8], "little") + 8 > len(data)
            case "TIFF":
                return _Directory(data).reach() > len(data)
            case "AVIF":
                return _boxes_reach(data) > len(data)
            case "JPEG2000":
                return b"\xff\xd9" not in data[-64:]
            case "BMP":
                return int.from_bytes(data[2:6], "little") > len(data)
            case _:
                return False
    except (struct.error, OverflowError):
        return True


_PNG_END = b"IEND\xaeB`\x82"


def _boxes_reach(data: bytes) -> int:
    """Return where the last box of an ISO base media file ends."""
    at = 0
    while at + 16 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        size = int.from_bytes(data[at + 8 : at + 16], "big") if size == 1 else size
        at = len(data) if size == 0 else at + max(size, 8)
    return at


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment up to the first scan, whose end is that of the file."""
    at, count, last = 2, 0, len(data) - 1
    while at < last:
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:
            # Bytes between segments; any number of 0xFF may stand before a marker.
            at = data.find(b"\xff", at)
            fill = _FILL.match(data, at) if at >= 0 else None
            if fill is None or fill.end() > last:
                return
            at, marker = fill.end() - 1, data[fill.end()]
        count += 1
        if count > MOST_PARTS:
            _bounded(count, "JPEG", "segments")
        if marker == 0xDA:
            yield marker, at, len(data)
            return
        if marker in _WITHOUT_LENGTH:
            at += 2
            continue
        end = at + 2 + (int.from_bytes(data[at + 2 : at + 4], "big") or 2)
        yield marker, at, end
        at = end


_FILL = re.compile(rb"\xff+")
_WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})


def jpeg_scans(data: bytes) -> int:
    """Count 0xFF 0xDA: entropy-coded data never has it, and a preview within the metadata has a few.

    At even and at odd places, since bytes.count takes nine times as long.
    """
    pairs = (np.frombuffer(data, "<u2", (len(data) - start) // 2, start) for start in (0, 1))
    return sum(int(np.count_nonzero(each == 0xDAFF)) for each in pairs)


def _plain_jpeg(data: bytes) -> bytes:
    kept = [b"\xff\xd8"]
    for marker, start, end in _jpeg_segments(data):
        segment = data[start:end]
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            # libjpeg reads the colour space from these two; shorter ones it ignores, and Pillow refuses.
            colours = (marker == 0xE0 and segment[4:9] == b"JFIF\0" and len(segment) >= 16) or (
                marker == 0xEE and segment[4:9] == b"Adobe" and len(segment) >= 16
            )
            upright = marker == 0xE1 and segment[4:10] == b"Exif\0\0" and _only_orientation(segment[10:])
            if upright:
                kept.append(b"\xff\xe1" + struct.pack(">H", len(upright) + 8) + b"Exif\0\0" + upright)
            elif colours:
                kept.append(segment)
        else:
            kept.append(segment)
    return b"".join(kept)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of each chunk, up to the last one."""
    at, count = 8, 0
    while at + 12 <= len(data):
        _bounded(count := count + 1, "PNG", "chunks")
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield (kind := data[at + 4 : at + 8]), at, end
        if kind == b"IEND":
            return
        at = end


def _plain_png(data: bytes) -> bytes:
    kept = [data[:8]]
    for kind, start, end in _png_chunks(data):
        if kind in {b"IHDR", b"PLTE", b"IDAT"} or (kind == b"tRNS" and _is_sound_transparency(data, start, end)):
            kept.append(data[start:end])
        elif kind == b"eXIf" and (upright := _only_orientation(data[start + 8 : end - 4])):
            checksum = crc32(b"eXIf" + upright)
            kept.insert(2, struct.pack(">I", len(upright)) + b"eXIf" + upright + struct.pack(">I", checksum))
    return b"".join([*kept, b"\0\0\0\0" + _PNG_END])


def _is_sound_transparency(data: bytes, start: int, end: int) -> bool:
    lengths = {0: (2,), 2: (6,), 3: range(1, 257)}.get(data[25], ())
    whole = crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
    return whole and end - start - 12 in lengths


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of each chunk, with its padding."""
    at, count = 12, 0
    while at + 8 <= len(data):
        _bounded(count := count + 1, "WEBP", "chunks")
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], at, at + 8 + size + (size & 1)
        at += 8 + size + (size & 1)


def _plain_webp(data: bytes) -> bytes:
    kept = [b"WEBP"]
    for kind, start, end in _webp_chunks(data):
        chunk = data[start:end]
        if kind == b"VP8X" and len(chunk) > 8:
            # Its flags announce a colour profile and XMP, which are left out, and EXIF data.
            kept.append(chunk[:8] + bytes([chunk[8] & 0b0001_1010]) + chunk[9:])
        elif kind in {b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"} and end <= len(data) + 1:
            kept.append(chunk)
        elif kind == b"EXIF" and (upright := _only_orientation(chunk[8:])):
            kept.append(kind + struct.pack("<I", len(upright)) + upright)
    body = b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _gif_table(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_picture(data: bytes) -> int:
    """Return where the first picture begins, after all extensions; the end of the file when there is none."""
    at, count = 13 + (_gif_table(data[10]) if len(data) > 10 else 0), 0
    while at < len(data):
        _bounded(count := count + 1, "GIF", "blocks before its picture")
        if data[at] == 0x2C:
            return at
        if data[at] != 0x21:
            at += 1
            continue
        at += 2
        while at < len(data) and data[at]:
            _bounded(count := count + 1, "GIF", "blocks before its picture")
            at += 1 + data[at]
        at += 1
    return len(data)


class _Directory:
    """The first image file directory of a TIFF file.

    Attributes:
        start: where it begins, with the number of its entries.
        entries: tag, type, number of values and bytes of each entry that is there.
        order: `<` or `>`, the order of bytes.
        wide: whether it is a BigTIFF, whose counts and offsets have 8 bytes.
    """

    def __init__(self, data: bytes) -> None:
        """Read it.

        Raises:
            struct.error: the file ends before it.
        """
        self.data, self.order, self.wide = data, "<" if data.startswith(b"II") else ">", 43 in data[2:4]
        self.offset, self.count, entry = ("Q", "Q", "HHQ8x") if self.wide else ("I", "H", "HHI4x")
        (self.start,) = struct.unpack_from(self.order + self.offset, data, 8 if self.wide else 4)
        (count,) = struct.unpack_from(self.order + self.count, data, self.start)
        first, size = self.start + struct.calcsize("=" + self.count), struct.calcsize("=" + entry)
        last = min(first + min(count, 65_535) * size, len(data))
        self.entries: list[tuple[int, int, int, bytes]] = [
            (*struct.unpack_from(self.order + entry, data, at), data[at : at + size])
            for at in range(first, last - size + 1, size)
        ]

    def numbers(self, *wanted: int) -> tuple[int, ...]:
        """Return the values of the first of these tags that is there."""
        for tag, kind, count, entry in self.entries:
            if tag in wanted and kind in _WHOLE and count <= _MOST_STRIPS:
                code, width = f"{self.order}{count}{_WHOLE[kind]}", struct.calcsize("=" + self.offset)
                if struct.calcsize(code) <= width:
                    return struct.unpack_from(code, entry[-width:])
                return struct.unpack_from(code, self.data, struct.unpack(self.order + self.offset, entry[-width:])[0])
        return ()

    def reach(self) -> int:
        """Return where the last strip or tile ends; 0 when the file does not say."""
        ends = map(sum, zip(self.numbers(273, 324), self.numbers(279, 325), strict=False))
        return max(ends, default=0)


_WHOLE = {3: "H", 4: "I", 8: "h", 9: "i", 16: "Q", 17: "q"}
"""Types of whole numbers by their codes."""

_STRIPS = frozenset({273, 279, 324, 325})
_ARRAYS = _STRIPS | {320, 347, 512, *range(513, 522), 532}
_XMP = 700
_TIFF_PIXELS = _ARRAYS | {
    *(254, 255, 256, 257, 258, 259, 262, 266, 274, 277, 278, 280, 281, 284, 292, 293, 317),
    *(322, 323, 332, 338, 339, 340, 341, 529, 530, 531),
}
"""Tags of TIFF 6.0 and its supplements that decoders need; 274 is the orientation."""

_BYTES = frozenset({1, 7})
_MOST_VALUES = 256


def _plain_tiff(data: bytes) -> bytes:
    directory = _Directory(data)
    kept = []
    for tag, kind, count, entry in directory.entries:
        if tag in _STRIPS and count > _MOST_STRIPS:
            raise ImageTooLarge(f"Expected a TIFF of at most {_MOST_STRIPS} strips or tiles, received {count}.")
        # Pillow makes an object of each number, so others than those of the pixels have to be few and whole.
        pixels = tag in _TIFF_PIXELS and (kind in _WHOLE or kind in _BYTES or tag in {529, 532})
        if (pixels and (tag in _ARRAYS or count <= _MOST_VALUES)) or (tag == _XMP and kind in _BYTES):
            kept.append(entry)
    # Zeros in place of the entries left out; the first of them say that there is no further directory.
    table = struct.pack(directory.order + directory.count, len(kept)) + b"".join(kept)
    old = struct.calcsize("=" + directory.count + directory.offset) + sum(len(e[3]) for e in directory.entries)
    return b"".join([data[: directory.start], table.ljust(old, b"\0"), data[directory.start + old :]])


_MOST_STRIPS = 65_536


def exif_orientation(exif: bytes) -> int | None:
    """Return the orientation that EXIF data names, 1 to 8 in a sound file; None where there is none.

    Args:
        exif: a TIFF header and its first directory, with or without the word Exif before them.
    """
    for _ in range(2):
        exif = exif.removeprefix(b"Exif\0\0")
    if exif[:4] not in _TIFF_PREFIXES:
        return None
    try:
        return next(iter(_Directory(exif).numbers(0x0112)), None)
    except (struct.error, OverflowError):
        return None


def _only_orientation(exif: bytes) -> bytes | None:
    """Return EXIF data with the orientation alone; None where there is none."""
    value = exif_orientation(exif)
    if value is None or not 1 <= value <= 8:
        return None
    return struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x0112, 3, 1, value, 0, 0)


def xmp_orientation(info: dict[Any, Any]) -> int | None:
    """Return the orientation that XMP names, for files without one in their EXIF data."""
    text = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
    text = text.encode("utf-8", "ignore") if isinstance(text, str) else text
    found = re.search(rb'tiff:Orientation(?:="|>)([0-9])', text) if isinstance(text, bytes) else None
    return int(found[1]) if found else None
