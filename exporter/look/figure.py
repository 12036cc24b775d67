"""Zeiler and Fergus' figure: the photos that excite each channel most, and what of them reaches it by DeconvNet."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from exporter.graph.cut_points import Field
from exporter.look.pictures import as_picture, reduced
from exporter.look.subject import Passed, Subject
from exporter.recipe.images import read_pixels
from exporter.runtime.terminal import counted
from microtome.preprocessing import as_image

TOP = 9
"""Photos of a channel, as in the paper."""
SIDE = 96
"""Longest side of a cell, in pixels."""

_PIXELS = 4 * 224 * 224
"""Pixels that go back through the network together; what the way back needs of one image takes some 150 MB in VGG16."""
_ROWS = 4096

Array = np.ndarray[Any, Any]


class Cell(NamedTuple):
    """One of the photos that excite a channel most.

    Attributes:
        photo: Its file.
        peak: The channel's largest activation.
        patch: The pixels that the position sees, uint8 [h, w, 3]; grey is outside of the photo.
        rebuilt: The reconstruction there, uint8 [h, w, 3]; grey is nothing.
    """

    photo: Path
    peak: float
    patch: Array
    rebuilt: Array


def figure(subject: Subject, photos: Passed, most: int) -> tuple[list[tuple[int, list[Cell]]], int]:
    """Make the cells of the strongest channels: those whose nine photos excite them most, on average.

    Args:
        subject: The layer.
        photos: After the pass.
        most: Channels at most.

    Returns:
        Each channel's index with its cells, and how many channels no photo excites.
    """
    values, owners = strongest(photos.store.vectors("peak"), photos.there)
    strength = np.maximum(values, 0).mean(axis=0)
    order = [int(channel) for channel in np.argsort(-strength, kind="stable") if strength[channel] > 0]
    wanted = [
        (channel, int(photo), float(value))
        for channel in order[:most]
        for photo, value in zip(owners[:, channel], values[:, channel], strict=True)
        if value > 0
    ]
    cells: dict[int, list[Cell]] = {channel: [] for channel in order[:most]}
    size = max(1, _PIXELS // (subject.pixels.height * subject.pixels.width))
    batches = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    for batch in counted(batches, len(batches), f"{subject.name}: reconstructing"):
        pairs = _pairs(subject, photos, [(channel, photo) for channel, photo, _ in batch])
        for (channel, photo, value), (patch, rebuilt) in zip(batch, pairs, strict=True):
            cells[channel].append(Cell(photos.files[photo], value, patch, rebuilt))
    return list(cells.items()), len(strength) - len(order)


def _pairs(subject: Subject, photos: Passed, batch: Sequence[tuple[int, int]]) -> Iterator[tuple[Array, Array]]:
    """Yield patches and reconstructions, small; reconstructions of an earlier run are read from the disk."""
    folder = photos.store.directory / "rebuilt"
    folder.mkdir(exist_ok=True)
    images, units, windows, paths = [], [], [], []
    places, columns = photos.store.vectors("place"), int(subject.tensor.shape[2])
    for channel, photo in batch:
        image = read_pixels(photos.files[photo], subject.pixels)
        row, column = divmod(int(places[photo, channel]), columns)
        images.append(image)
        units.append((row, column, channel))
        windows.append(window(subject.field, row, column, *image.shape[:2]))
        paths.append(folder / f"{hashlib.sha256(f'{photos.keys[photo]} {channel}'.encode()).hexdigest()[:32]}.png")
    missing = [index for index, path in enumerate(paths) if not path.is_file()]
    if missing:
        found = reconstruct(subject, np.stack([images[one] for one in missing]), [units[one] for one in missing])
        for index, whole in zip(missing, found, strict=True):
            small = reduced(as_picture(cut(whole, windows[index], 0)), SIDE)
            _write(paths[index], as_picture(small - 127.5))  # making it small has averaged its contrast away
    for image, seen, path in zip(images, windows, paths, strict=True):
        with Image.open(path) as opened:
            yield reduced(cut(image, seen, 128), SIDE), np.asarray(opened.convert("RGB"))


def strongest(peaks: Array, there: Array) -> tuple[Array, Array]:
    """Return the photos that excite each channel most, in one pass over blocks of photos.

    Args:
        peaks: float32 [photos, channels], perhaps on disk.
        there: Indices of the photos that take part.

    Returns:
        Their activations and indices, [at most 9, channels], largest first; of equals the first photo.
    """
    channels = peaks.shape[1]
    values, owners = np.empty((0, channels), np.float32), np.empty((0, channels), np.int64)
    for start in range(0, len(there), _ROWS):
        block = there[start : start + _ROWS]
        values = np.concatenate([values, peaks[block]])
        owners = np.concatenate([owners, np.repeat(block[:, None], channels, axis=1)])
        order = np.argsort(-values, axis=0, kind="stable")[:TOP]
        values, owners = np.take_along_axis(values, order, 0), np.take_along_axis(owners, order, 0)
    return values, owners


def window(field: Field, row: int, column: int, height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of pixels that a position sees, which may lie outside of the photo at its edges.

    All of them where the field is not known, or larger than the photo.
    """
    if not field.known or field.spans is None:
        return slice(0, height), slice(0, width)
    found = []
    for span, index, side in zip(field.spans, (row, column), (height, width), strict=True):
        first, last = math.floor(span.first + span.stride * index), math.ceil(span.last + span.stride * index)
        found.append(slice(first, last + 1) if span.size < side else slice(0, side))
    return found[0], found[1]


def cut(pixels: Array, seen: tuple[slice, slice], outside: int) -> Array:
    """Cut a window out of [H, W, 3], with a value for what lies outside."""
    around = [(max(-part.start, 0), max(part.stop - side, 0)) for part, side in zip(seen, pixels.shape, strict=False)]
    inside = pixels[max(seen[0].start, 0) : seen[0].stop, max(seen[1].start, 0) : seen[1].stop]
    return np.pad(inside, [*around, (0, 0)], constant_values=outside)


def reconstruct(subject: Subject, pixels: Array, units: Sequence[tuple[int, int, int]]) -> Array:
    """Pass one activation of each image back to the pixels by DeconvNet's rule; all others count as zero.

    Args:
        subject: The layer.
        pixels: uint8 [N, H, W, 3].
        units: Row, column and channel, for each image.

    Returns:
        float32 [N, H, W, 3].
    """
    places = [[index, *unit] for index, unit in enumerate(units)]

    def seed(maps: tf.Tensor) -> tf.Tensor:
        return tf.scatter_nd(places, tf.gather_nd(maps, places), tf.shape(maps))

    return subject.back(pixels, subject.tensor, seed, "deconvnet")


def _write(path: Path, pixels: Array) -> None:
    draft = path.with_suffix(".tmp")  # a run that is killed leaves no half of a picture
    as_image(pixels).save(draft, "PNG")
    draft.replace(path)
