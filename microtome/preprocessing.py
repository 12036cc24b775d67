"""Turn encoded images into a model's input pixels: decode, orient, cut regions out, convert, resize, crop.

The gateway, the exporter and bulk embedding all call `decode`: models are fitted, verified and served on the same
pixels. Only the first frame of an animation is decoded, so the number of frames needs no limit.
Nothing here starts threads: callers run `decode` off their event loop. `prepared` tells what decoding will cost, for
callers that bound it over many images.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from microtome.colors import MODES, colored, depth_of
from microtome.errors import BrokenImage, ImageTooLarge, ServiceError
from microtome.fast_resizing import resized_window, unavailable
from microtome.image_files import exif_orientation, jpeg_scans, without_metadata, xmp_orientation
from microtome.manifest import InputSpec
from microtome.opening import (
    DEFAULT_FORMATS,
    MANY_PIXELS,
    TILE_LENGTH,
    TILE_WIDTH,
    broken,
    is_raw,
    is_run_length,
    opened,
    read_header,
)
from microtome.regions import WHOLE, Region

REDUCING_GAP = 2.0
"""A scaled JPEG is decoded at this multiple of the target size or more, then resampled: as in Image.thumbnail."""

_LARGEST_DETOUR = 16
"""Largest area after resizing and before the crop, in multiples of the model's input."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation."""

_TRANSPOSED = frozenset({5, 6, 7, 8})
_MIRRORED, _UPSIDE_DOWN = frozenset({2, 3, 6, 7}), frozenset({3, 4, 7, 8})
"""Orientations in which the upright picture begins, from the left or from the top, with what is stored last."""

_ORIENTATION = 0x0112
_ROWS, _BITS = 278, 258


class Placement(NamedTuple):
    """Resize the image to `size` (width, height), then cut the model's window with its corner at (left, top)."""

    size: tuple[int, int]
    left: int
    top: int


class Cost(NamedTuple):
    """What decoding an image needs.

    Attributes:
        memory: bytes at its peak, beside the encoded image; measured by `python -m bench.decoding`.
        apart: whether decoding belongs into another process, since no other thread runs for longer than some 10 ms:
            while its decoder works, while Pillow copies, or while it allocates and frees the picture.
    """

    memory: int
    apart: bool


class Picture:
    """An image whose header has been read and is within the limits.

    Attributes:
        cost: what `pixels` or `parts` will need.
    """

    def __init__(
        self,
        image: Image.Image,
        encoded: bytes,
        spec: InputSpec,
        regions: Sequence[Region] = (WHOLE,),
        again: Callable[[], AbstractContextManager[Image.Image]] | None = None,
    ) -> None:
        """Ask libjpeg for a scaled decode where the manifest allows it, which must precede loading.

        Args:
            image: not loaded yet.
            encoded: its file.
            spec: the manifest's `input`.
            regions: that are wanted.
            again: opens the image once more, for regions of another scale.

        Raises:
            BrokenImage: the decoder refuses.
            RuntimeError: the model is not for this platform, see `unavailable`; its callers have looked before.
        """
        if spec.decode == "fast" and (lacking := unavailable(spec)):
            raise RuntimeError(lacking)
        self._image, self._encoded, self._spec, self._regions, self._again = image, encoded, spec, regions, again
        stored, self._full, self._scales = image.size, None, [1] * len(regions)
        with _named_faults(image.format, encoded):
            if spec.decode != "exact" and image.format == "JPEG":
                turned = spec.exif_orientation and _orientation(image) in _TRANSPOSED
                self._full = stored[::-1] if turned else stored
                # Each region's own, so that its vector does not depend on the regions that it came with.
                self._scales = [_scale(region, self._full, spec) for region in regions]
                _draft(image, min(self._scales))
            self.cost = _cost(image, stored, encoded, spec, regions)

    def pixels(self) -> NDArray[np.uint8]:
        """Decode, once; the only region, or the first.

        Returns:
            uint8 [height, width, channels], C-contiguous.

        Raises:
            BrokenImage: truncated, corrupt, or of a kind that its decoder does not read.
            ImageTooLarge: it turns out to have too many pixels.
        """
        return self.parts()[0]

    def parts(self) -> list[NDArray[np.uint8]]:
        """Decode, once for all regions of a scale.

        Returns:
            uint8 [height, width, channels] of each region, as `pixels` does.

        Raises:
            BrokenImage, ImageTooLarge: likewise.
        """
        found: dict[Region, NDArray[np.uint8]] = {}
        for scale in sorted(set(self._scales)):
            wanted = [region for region, own in zip(self._regions, self._scales, strict=True) if own == scale]
            first = not found or self._again is None
            with nullcontext(self._image) if first or self._again is None else self._again() as image:
                if not first:
                    _draft(image, scale)
                found |= zip(wanted, self._mended(image, wanted, scale), strict=True)
        return [found[region] for region in self._regions]

    def _mended(self, image: Image.Image, regions: Sequence[Region], scale: int) -> list[NDArray[np.uint8]]:
        try:
            return self._fitted(image, regions, scale)
        except BrokenImage:
            # A PNG has metadata after its picture, too.
            plain = without_metadata(self._encoded, "PNG") if image.format == "PNG" else None
            if plain is None:
                raise
            with suppress(SyntaxError), read_header(plain, "PNG") as again:
                return self._fitted(again, regions, scale)
            raise

    def _fitted(self, image: Image.Image, regions: Sequence[Region], scale: int) -> list[NDArray[np.uint8]]:
        spec = self._spec
        with _named_faults(image.format, self._encoded):
            # Some formats tell their orientation only at their end, and Pillow turns a TIFF while loading it.
            image.load()
            depth = depth_of(image, self._encoded)
            orientation = _orientation(image) if spec.exif_orientation and image.format != "TIFF" else 1
            method = _UPRIGHT.get(orientation)
            upright = image if method is None else image.transpose(method)
            full = self._full or upright.size
            gap = REDUCING_GAP if self._full else None
            # The last row and column may be reduced from fewer pixels than the others; turned, they are the first.
            start = (
                upright.width - full[0] / scale if orientation in _MIRRORED else 0.0,
                upright.height - full[1] / scale if orientation in _UPSIDE_DOWN else 0.0,
            )
            fitted = []
            for region in regions:
                left, top, right, bottom = _box(region, full)
                part, box = _cut(upright, (left, top, right, bottom), full, scale, start)
                placement = place((right - left, bottom - top), spec)
                fitted.append(_fit(colored(part, spec, depth), placement, spec, gap, box).reshape(spec.shape))
            return fitted


@contextmanager
def prepared(
    encoded: bytes,
    spec: InputSpec,
    *,
    max_pixels: int,
    formats: Collection[str] = DEFAULT_FORMATS,
    regions: Sequence[Region] = (WHOLE,),
) -> Iterator[Picture]:
    """Read the header of an image of which regions are to be decoded as the model's manifest specifies.

    Raises:
        NotAnImage, BrokenImage, ImageTooLarge: as `decode` does.
    """
    with opened(encoded, max_pixels, formats) as image:
        yield Picture(image, encoded, spec, regions, lambda: opened(encoded, max_pixels, formats))


def decode(
    encoded: bytes,
    spec: InputSpec,
    *,
    max_pixels: int,
    formats: Collection[str] = DEFAULT_FORMATS,
    region: Region = WHOLE,
) -> NDArray[np.uint8]:
    """Decode one image as the model's manifest specifies.

    Colours are Keras', unless the manifest says otherwise: see `microtome.colors`. Of an animation it is the first
    frame. A fault of metadata never refuses a picture.

    Args:
        encoded: the file's bytes.
        spec: the manifest's `input`.
        max_pixels: width times height above which the image is refused before it is decoded.
        formats: those of `FORMATS` that are read.
        region: of the upright image; the result is that of a file with no more than this in it.

    Returns:
        uint8 [height, width, channels], C-contiguous.

    Raises:
        NotAnImage: in none of the formats.
        ImageTooLarge: more pixels than `max_pixels`, or a longer side, more parts, scans or larger tiles than the
            limits.
        BrokenImage: truncated, corrupt, or of a kind that its decoder does not read.
    """
    with prepared(encoded, spec, max_pixels=max_pixels, formats=formats, regions=[region]) as picture:
        return picture.pixels()


def as_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return a picture of pixels, [height, width] or [height, width, channels]."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def place(stored: tuple[int, int], spec: InputSpec) -> Placement:
    """Compute how an upright image of `stored` (width, height) pixels becomes the model's window.

    * squash: resized to the window, aspect ratio ignored; `keras.utils.load_img(target_size=…)`.
    * shortest-side: the shorter side becomes `shortest_side`, the longer one follows, rounded down; then the centre is
      cut out. The arithmetic is that of torchvision's `Resize` and `CenterCrop`, so vectors are comparable.
    * letterbox: the longer side fits the window, and the rest is black, equally on both sides.
    """
    width, height = stored
    if spec.resize == "squash":
        return Placement((spec.width, spec.height), 0, 0)
    if spec.resize == "shortest-side":
        side = spec.shortest_side or min(spec.width, spec.height)
        size = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
        return _centered(size, spec)
    ratio = min(spec.width / width, spec.height / height)
    return _centered((max(1, round(width * ratio)), max(1, round(height * ratio))), spec)


def _centered(size: tuple[int, int], spec: InputSpec) -> Placement:
    return Placement(size, round((size[0] - spec.width) / 2), round((size[1] - spec.height) / 2))


def _scale(region: Region, upright: tuple[int, int], spec: InputSpec) -> int:
    """Return by how much libjpeg may divide the sides of an image, for one of its regions to be large enough."""
    left, top, right, bottom = _box(region, upright)
    width, height = place((right - left, bottom - top), spec).size
    most = min((right - left) // int(width * REDUCING_GAP), (bottom - top) // int(height * REDUCING_GAP))
    return next((scale for scale in (8, 4, 2) if most >= scale), 1)


def _box(region: Region, full: tuple[int, int]) -> tuple[int, int, int, int]:
    return (0, 0, *full) if region == WHOLE else region.box(full)


def _draft(image: Image.Image, scale: int) -> None:
    image.draft(None, (image.width // scale, image.height // scale))


_Box = tuple[float, float, float, float]


def _cut(
    upright: Image.Image,
    wanted: tuple[int, int, int, int],
    full: tuple[int, int],
    scale: int,
    start: tuple[float, float],
) -> tuple[Image.Image, _Box | None]:
    """Cut a region out, of whose edges nothing is seen when it is resized.

    Args:
        upright: perhaps decoded at a reduced scale.
        wanted: left, top, right, bottom in pixels of the full size.
        full: width and height before reduction.
        scale: of the reduction.
        start: where the first pixel of the full size begins, in reduced pixels.

    Returns:
        The part in whole pixels, and where within it the region lies, if its edges are fractions of reduced pixels.
    """
    if wanted == (0, 0, *full):
        return upright, None
    if upright.size == full:
        return upright.crop(wanted), None
    left, right = (edge / scale + start[0] for edge in wanted[::2])
    top, bottom = (edge / scale + start[1] for edge in wanted[1::2])
    corner = int(left), int(top)
    part = upright.crop((*corner, min(math.ceil(right), upright.width), min(math.ceil(bottom), upright.height)))
    right, bottom = min(right - corner[0], part.width), min(bottom - corner[1], part.height)
    return part, (left - corner[0], top - corner[1], right, bottom)


def _orientation(image: Image.Image) -> int:
    """Return the orientation of an image's metadata as Pillow does, but whatever else is wrong with them."""
    exif = image.info.get("exif")
    if exif is None and isinstance(profile := image.info.get("Raw profile type exif"), str):
        # ImageMagick writes EXIF data into a PNG's text so.
        with suppress(ValueError):
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))
    found = exif_orientation(exif) if isinstance(exif, bytes) else None
    return (xmp_orientation(image.info) or 1) if found is None else found


def _fit(
    picture: Image.Image, placement: Placement, spec: InputSpec, gap: float | None, part: _Box | None
) -> NDArray[np.uint8]:
    """Resize a picture, or a part of it, and cut the model's window out."""
    left, top = placement.left, placement.top
    x0, y0, x1, y1 = part or (0, 0, picture.width, picture.height)
    window = (left, top, left + spec.width, top + spec.height)
    resampling = Image.Resampling[spec.interpolation.upper()]
    if spec.decode == "fast":
        seen = resized_window(picture, placement.size, window, spec.interpolation, gap, part)
        if seen is not None:
            return np.array(seen, dtype=np.uint8)
    if placement.size[0] * placement.size[1] > _LARGEST_DETOUR * spec.width * spec.height:
        # A strip of 1 x 5000 pixels would become 256 x 1,280,000 before the crop: resample only what the crop keeps.
        # The sampling points are the same, but Pillow's rounding differs by a grey level, so only large detours do so.
        x, y = (x1 - x0) / placement.size[0], (y1 - y0) / placement.size[1]
        box = (x0 + window[0] * x, y0 + window[1] * y, x0 + window[2] * x, y0 + window[3] * y)
        size = (spec.width, spec.height)
        return np.array(picture.resize(size, resampling, box=box, reducing_gap=gap), dtype=np.uint8)
    if part or picture.size != placement.size:
        picture = picture.resize(placement.size, resampling, box=part, reducing_gap=gap)
    # Beyond the image's edge (letterbox) crop fills with black, transparent where there is opacity.
    return np.array(picture if picture.size == (spec.width, spec.height) else picture.crop(window), dtype=np.uint8)


@contextmanager
def _named_faults(format_: str | None, encoded: bytes) -> Iterator[None]:
    try:
        yield
    except ServiceError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLarge("Expected fewer pixels than Pillow allows; received many times more.") from None
    except Exception as error:
        # Decoders meet corrupt data with nearly any exception type; all of them mean the same to the caller.
        raise broken("JPEG" if format_ == "MPO" else format_ or "", error, encoded) from error


_BYTES_A_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
"""Of Pillow's images by their mode; all others have 4."""

_LARGE = 128 << 20
_MANY_TILES = 4096
_PROCESS = 48 << 20
"""What another process takes beside the picture."""


def _cost(
    image: Image.Image, stored: tuple[int, int], encoded: bytes, spec: InputSpec, regions: Sequence[Region]
) -> Cost:
    """Estimate from the header what decoding needs: Pillow's image, its copies, and what the decoder has beside them.

    Args:
        image: not loaded; its size is that of the scaled decode.
        stored: width and height in the file.
        encoded: the file's bytes.
        spec: the manifest's `input`.
        regions: that are wanted.
    """
    pixels, (width, height) = stored[0] * stored[1], image.size
    bands, depth = len(image.getbands()), _BYTES_A_PIXEL.get(image.mode, 4)
    tags = getattr(image, "tag_v2", {})
    # What the decoder has while it works, and what it keeps until the picture is closed.
    passing, kept, apart = 0, 0, image.format in {"JPEG2000", "PPM"} and not is_raw(encoded)
    match image.format:
        case "JPEG" | "MPO":
            # Coefficients of the whole picture, unless they come in one scan; not counted where it makes no odds.
            many = pixels < 1 << 20 or jpeg_scans(encoded) > 1
            passing = 2 * bands * pixels if many else 0
        case "WEBP":
            passing, kept = 4 * pixels, 8 * pixels + 3 * len(encoded)
            apart = pixels > MANY_PIXELS
        case "AVIF":
            found = re.search(rb"av1C..(.)", encoded, re.DOTALL)
            planes = 2 if found is None or found[1][0] & 0x40 else 1
            passing, kept = bands * pixels, int((planes * bands + 1.5) * pixels) + 2 * len(encoded)
            apart = pixels > MANY_PIXELS
        case "JPEG2000":
            passing = int(5.5 * bands * pixels)
        case "TIFF":
            tiles = len(getattr(image, "tile", ()))
            passing, kept = _tiff_buffers(tags, stored), len(encoded) + 500 * tiles
            apart = tiles > _MANY_TILES
        case "BMP" if is_run_length(image):
            # Decoded in Python, where a few bytes may stand for a row.
            passing = 3 * pixels
            apart = pixels > MANY_PIXELS // 16 or len(encoded) > 1 << 16
    late = image.format == "PNG" and b"eXIf" in encoded
    turned = late or _orientation(image) != 1 or tags.get(_ORIENTATION, 1) != 1
    copies = depth if turned and spec.exif_orientation else 0
    converted = 0 if image.mode == MODES[spec.color] else 4
    converted += 4 if spec.color == "rgba" else 0  # multiplied by the opacity while it is resized
    if spec.background is not None and image.format not in {"JPEG", "MPO"}:
        converted += 9
    if spec.depth == "scale" and image.mode[0] in "IF":
        converted += 12
    part = max(0.0 if region == WHOLE else region.width * region.height for region in regions)
    copies += max(converted if WHOLE in regions else 0, math.ceil(part * (depth + converted)))
    resized = place(image.size, spec).size[0]
    rows = 4 * min(max(resized, spec.width), width, _LARGEST_DETOUR * spec.width) * max(width, height)
    memory = kept + depth * width * height + max(passing, copies * width * height) + rows
    memory = int(1.05 * memory) + (2 << 20)
    apart = apart or memory > _LARGE
    return Cost(memory + _PROCESS * apart, apart)


def _tiff_buffers(tags: object, stored: tuple[int, int]) -> int:
    """Return the bytes of libtiff's buffers: a strip or tile, and the same once more as RGBA where it converts."""
    get = getattr(tags, "get", dict[int, object]().get)
    numbers = [get(tag) for tag in (_ROWS, TILE_WIDTH, TILE_LENGTH)]
    rows, tile_width, tile_length = (value if isinstance(value, int) else 0 for value in numbers)
    bits = get(_BITS) or (8,)
    size = tile_width * tile_length or min(rows or stored[1], stored[1]) * stored[0]
    return size * (sum(bits) // 8 + 5 if isinstance(bits, tuple) else 5)
