"""Photos to send: the repository's three, what can be made of them, and copies that a cache does not know."""

import io
import itertools
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("astronaut", "cat", "coffee")

_serial = itertools.count()


def example(name: str) -> bytes:
    """One of the repository's photos."""
    return (EXAMPLES / f"{name}.jpg").read_bytes()


def ten() -> dict[str, bytes]:
    """Ten different photos by name: the three, and crops, rotations and reflections of them."""
    photos = {name: example(name) for name in NAMES}
    for name in NAMES:
        with Image.open(EXAMPLES / f"{name}.jpg") as image:
            width, height = image.size
            photos[f"{name}-turned"] = _jpeg(image.transpose(Image.Transpose.ROTATE_90))
            photos[f"{name}-cropped"] = _jpeg(image.crop((width // 5, height // 5, width, height)))
    with Image.open(EXAMPLES / "cat.jpg") as image:
        photos["cat-mirrored.png"] = _png(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    return photos


def unseen(photo: bytes) -> bytes:
    """The same picture as a file that no cache has seen: decoders ignore what follows a JPEG's end."""
    return photo + b"copy %d" % next(_serial)


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92)
    return out.getvalue()


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
