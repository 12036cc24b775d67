"""Encode an image of any kind as the bytes of a file, without loss.

Files and bytes are sent as they are. Pixels become PNG, so the server sees exactly these pixels; a JPEG of the same
image has a tenth of the size.
"""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, Union, cast

from microtome.client.errors import MicrotomeError, UnreadableImage
from microtome.regions import EXPECTED, read_region

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image as PillowImage

Crop: TypeAlias = tuple[float, float, float, float] | Sequence[float]
"""A region: x, y, width and height in fractions of the upright image, from its upper left corner."""


Crops: TypeAlias = Crop | Sequence[Crop] | None
"""One region of each image, several, or none: all of it."""


@dataclass(frozen=True, slots=True)
class Cropped:
    """A region of an image, which is embedded as an image of its own; the server cuts it out.

    Regions of one image that stand one after another are sent and decoded together.

    Attributes:
        image: anything that is an image, the same object for all of its regions.
        crop: x, y, width and height in fractions of the upright image, from its upper left corner.
    """

    image: Any
    crop: Crop

    def __post_init__(self) -> None:
        """Check the region.

        Raises:
            ValueError: it is none.
        """
        try:
            region = read_region([float(number) for number in self.crop])
        except (TypeError, ValueError):
            raise ValueError(f"Expected a crop to be {EXPECTED}; received {self.crop!r}.") from None
        object.__setattr__(self, "crop", region)


@dataclass(frozen=True, slots=True)
class Text:
    """A text, for a model of images and text: a plain string is the path of a file.

    Attributes:
        text: such as `a photo of a cat`.
    """

    text: str


def cropped(images: Iterable[Any], crops: Sequence[Crop]) -> list[Any]:
    """Return each region of each image; the images themselves where there are no regions."""
    return [Cropped(image, crop) for image in images for crop in crops] if crops else list(images)


def regions(crop: Crops) -> list[Crop]:
    """Normalise what a caller may write for `crop`.

    Raises:
        ValueError: a region that is none, or an empty list.
    """
    if crop is None:
        return []
    several: Any = list(crop)
    listed = several if all(hasattr(each, "__len__") for each in several) else [several]
    if not listed:
        raise ValueError("Expected at least one crop, received an empty list.")
    return [Cropped(None, each).crop for each in listed]


def together(images: "Sequence[Body]") -> list[tuple[bytes | Text, list[Crop]]]:
    """Return each file or text once, with its regions where some follow each other; none for all of an image."""
    found: list[tuple[bytes | Text, list[Crop]]] = []
    for image in images:
        if not isinstance(image, Cropped):
            found.append((image, []))
        elif found and found[-1][0] is image.image and found[-1][1]:
            found[-1][1].append(image.crop)
        else:
            found.append((image.image, [image.crop]))
    return found


Body: TypeAlias = bytes | Cropped | Text
"""What is sent of an image: a file's bytes, a region of them, or a text."""

ImageLike: TypeAlias = Union[
    str,
    "os.PathLike[str]",
    bytes,
    bytearray,
    memoryview,
    IO[bytes],
    Callable[[], bytes],
    "PillowImage.Image",
    "NDArray[Any]",
    Cropped,
    Text,
]
"""An image: a file's path, its bytes, an open file, a function that returns bytes, a Pillow image, pixels; or a text.

A file is open in binary mode and is read from its position to its end. Pixels are uint8, [H,W] grey, [H,W,3] RGB or
[H,W,4] RGB and alpha.
"""

Images: TypeAlias = ImageLike | Sequence[ImageLike]
"""One image, or several."""

_FAST = 1
"""zlib's level: for photos within a few per cent of the default's size, in a fraction of its time."""


def encode(image: ImageLike) -> bytes:
    """Return an image as the bytes of a file.

    Raises:
        UnreadableImage: a missing file, a file that is closed, at its end or in text mode, pixels of another type or
            shape, or an object of no known kind.
    """
    body = _bytes(image.image if isinstance(image, Cropped) else image)
    if not body:
        at_end = " The file is at its end: call its seek(0) first." if hasattr(image, "read") else ""
        raise UnreadableImage(f"Expected an image, received 0 bytes.{at_end}")
    return body


def _bytes(image: ImageLike) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    try:
        if isinstance(image, str | os.PathLike):
            return Path(os.fsdecode(image)).read_bytes()
        if hasattr(image, "read"):
            return _read(cast("IO[bytes]", image))
        if callable(image):
            return _checked(image(), f"{getattr(image, '__name__', type(image).__name__)}()")
    except (OSError, ValueError) as error:
        # ValueError: a path with a zero byte, or a file that is closed.
        name = image if isinstance(image, str | os.PathLike) else getattr(error, "filename", None)
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImage(said if name is None else f"{name}: {said}") from error
    if hasattr(image, "__array_interface__") and not hasattr(image, "save"):
        return _png(_from_pixels(cast("NDArray[Any]", image)))
    if hasattr(image, "save"):
        return _png(cast("PillowImage.Image", image))
    raise UnreadableImage(
        "Expected an image: a path, bytes, a file opened with 'rb', a function that returns bytes, a Pillow image or "
        f"uint8 pixels [H,W,3]. Received {type(image).__name__}."
    )


def _read(file: IO[bytes]) -> bytes:
    try:
        body: object = file.read()
    except UnicodeDecodeError:
        body = ""
    if isinstance(body, str):
        raise UnreadableImage("Expected a file opened in binary mode, open(path, 'rb'). Received one in text mode.")
    return _checked(body, f"{type(file).__name__}.read()")


def _checked(body: object, source: str) -> bytes:
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    if hasattr(body, "close"):  # a coroutine, which would warn that it was not awaited
        body.close()
    raise UnreadableImage(f"Expected {source} to return an image's bytes. Received {type(body).__name__}.")


def is_one(images: object) -> bool:
    """Whether this is one image rather than several."""
    return (
        isinstance(images, str | os.PathLike | bytes | bytearray | memoryview)
        or callable(images)
        or hasattr(images, "read")
        or hasattr(images, "__array_interface__")
        or hasattr(images, "save")
        # Neither an image nor several: treated as one, so that the error says what an image is.
        or not hasattr(images, "__iter__")
    )


def encode_all(images: Iterable[Any]) -> list[bytes | Text | MicrotomeError]:
    """Encode several; texts stay what they are, and an image that fails has its error in its place.

    An image with several regions is read once.
    """
    found: list[bytes | Text | MicrotomeError] = []
    read: dict[int, bytes | MicrotomeError] = {}
    for image in images:
        if isinstance(image, Text):
            found.append(_sendable(image))
            continue
        whole = id(image.image) if isinstance(image, Cropped) else None
        try:
            body = read[whole] if whole in read else encode(image)
        except MicrotomeError as error:
            body = error
        if whole is not None:
            read[whole] = body
        found.append(body)
    return found


def _sendable(text: Text) -> Text | MicrotomeError:
    try:
        text.text.encode()
    except (UnicodeEncodeError, AttributeError):
        return UnreadableImage(f"Expected Text of a string that can be written as UTF-8. Received {text.text!r}.")
    return text


def _from_pixels(pixels: "NDArray[Any]") -> "PillowImage.Image":
    from PIL import Image  # noqa: PLC0415, most callers pass files

    shape = tuple(pixels.shape)
    if str(pixels.dtype) != "uint8" or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in {3, 4})):
        more = " One call takes several as a list: list(batch)." if len(shape) == 4 else ""
        raise UnreadableImage(
            f"Expected pixels as uint8 [H,W], [H,W,3] or [H,W,4] from 0 to 255, received {pixels.dtype} "
            f"{list(shape)}.{more}"
        )
    if 0 in shape:
        raise UnreadableImage(f"Expected pixels, received an empty array {list(shape)}.")
    return Image.fromarray(pixels)


def _png(image: "PillowImage.Image") -> bytes:
    out = io.BytesIO()
    try:
        (image if image.mode in {"L", "RGB", "RGBA", "1", "P", "LA", "I;16"} else image.convert("RGB")).save(
            out, "PNG", compress_level=_FAST
        )
    except (OSError, ValueError) as error:
        raise UnreadableImage(f"This picture cannot be written as PNG: {error}") from error
    return out.getvalue()
