"""Prove that a chain of blocks computes what the network computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from exporter.anatomy.calls import Network
from exporter.images import read_pixels
from exporter.preprocessing import Preprocessing
from exporter.splitting.blocks import Block
from exporter.splitting.saved_blocks import FORMS, read_chain

_EQUALITY = 1e-4
_SEED = 20240131

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How near one output of a chain came to the network's.

    Attributes:
        form: One of `FORMS`.
        images: What it was tried on.
        output: Name of the output.
        max_abs: Largest difference.
        max_rel: Largest difference, relative to the largest value that the network gives for that image.
        cosine: Of the image that is worst.
    """

    form: str
    images: str
    output: str
    max_abs: float
    max_rel: float
    cosine: float

    @property
    def equal(self) -> bool:
        """Whether that is nothing but rounding; not a number is not."""
        return self.max_rel <= _EQUALITY


def prove(
    model: keras.Model, blocks: Sequence[Block], directory: Path, trials: Mapping[str, tf.Tensor]
) -> list[Comparison]:
    """Read written blocks back, chain them, and compare with the network that they were cut from.

    Args:
        model: The network.
        blocks: Its blocks, in order.
        directory: Where they were written.
        trials: Images by what they are, float32 [N, H, W, 3], scaled as the network wants them.
    """
    whole = Network(model).model
    names = [block.model.name for block in blocks]
    found = []
    expected = {images: keras.tree.flatten(whole(batch, training=False)) for images, batch in trials.items()}
    for form in FORMS:
        with read_chain(directory, names, form) as chain:
            for images, batch in trials.items():
                given = chain({blocks[0].takes[0]: np.asarray(batch)})
                found += [
                    compare(form, images, output, np.asarray(given[output]), np.asarray(wanted))
                    for output, wanted in zip(blocks[-1].gives, expected[images], strict=True)
                ]
    return found


def prove_slice(model: keras.Model, block: Block, directory: Path, trials: Mapping[str, tf.Tensor]) -> list[Comparison]:
    """Read a written slice back, feed it what the network has where it begins, and compare where it ends.

    Args:
        model: The network.
        block: The slice.
        directory: Where it was written.
        trials: Images by what they are, float32 [N, H, W, 3], scaled as the network wants them.
    """
    names = [*block.takes, *block.gives]
    ends = keras.Model(Network(model).model.inputs, list(block.ends))
    tapped = {images: keras.tree.flatten(ends(batch, training=False)) for images, batch in trials.items()}
    found = []
    for form in FORMS:
        with read_chain(directory, [block.model.name], form) as chain:
            for images, tensors in tapped.items():
                known = {name: np.asarray(tensor) for name, tensor in zip(names, tensors, strict=True)}
                given = chain({name: known[name] for name in block.takes})
                found += [compare(form, images, name, given[name], known[name]) for name in block.gives]
    return found


def compare(form: str, images: str, output: str, given: Array, wanted: Array) -> Comparison:
    """Compare one output, image by image."""
    flat, expected = (values.reshape(len(values), -1).astype(np.float64) for values in (given, wanted))
    difference = np.abs(flat - expected).max(axis=1)
    tiny = np.finfo(np.float32).tiny
    lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(expected, axis=1)
    return Comparison(
        form,
        images,
        output,
        float(difference.max()),
        float((difference / np.maximum(np.abs(expected).max(axis=1), tiny)).max()),
        float(((flat * expected).sum(axis=1) / np.maximum(lengths, tiny)).min()),
    )


def noise(shape: tuple[int, ...]) -> Array:
    """Return uint8 [N, height, width, 3] of random pixels, the same on every run."""
    return np.random.default_rng(_SEED).integers(0, 256, shape, np.uint8)


def photos(files: Sequence[Path], pixels: Preprocessing) -> Array:
    """Return image files as uint8 [N, height, width, 3].

    Raises:
        ExporterError: One cannot be decoded.
    """
    return np.stack([read_pixels(file, pixels) for file in files])
