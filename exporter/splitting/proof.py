"""Prove that a chain of blocks computes what the network computes.

All that leaves a block is compared, not only what leaves the last one: the scores of a classifier are all but equal
whatever comes before them, as long as its weights are random.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

EQUALITY = 1e-4
"""Largest relative difference from the network."""
_SEED = 20240131

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How near one output of a block in its chain came to the network's.

    Attributes:
        form: One of `FORMS`.
        images: What it was tried on.
        block: Name of the block that it leaves; those before it have been run.
        output: Name of the output.
        max_abs: Largest difference.
        max_rel: Largest difference, relative to the largest value that the network gives for that image.
        cosine: Of the image that is worst.
    """

    form: str
    images: str
    block: str
    output: str
    max_abs: float
    max_rel: float
    cosine: float

    @property
    def equal(self) -> bool:
        """Whether that is nothing but rounding; not a number is not."""
        return self.max_rel <= EQUALITY


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
    batch = _together(trials)
    tapped = keras.Model(
        Network(model).model.input, [tensor for block in blocks for tensor in block.ends[len(block.takes) :]]
    )
    expected = [np.asarray(tensor) for tensor in keras.tree.flatten(tapped(batch, training=False))]
    found = []
    for form in FORMS:
        with read_chain(directory, [block.model.name for block in blocks], form) as chain:
            wanted = iter(expected)
            for block, given in zip(blocks, chain({blocks[0].takes[0]: batch}), strict=True):
                for name in block.gives:
                    whole = next(wanted)
                    found += [
                        compare(form, images, (block.model.name, name), given[name][part], whole[part])
                        for images, part in _parts(trials)
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
    ends = keras.Model(Network(model).model.input, list(block.ends))
    tapped = keras.tree.flatten(ends(_together(trials), training=False))
    known = {name: np.asarray(tensor) for name, tensor in zip(names, tapped, strict=True)}
    found = []
    for form in FORMS:
        with read_chain(directory, [block.model.name], form) as chain:
            (given,) = chain({name: known[name] for name in block.takes})
        for images, part in _parts(trials):
            found += [
                compare(form, images, (block.model.name, name), given[name][part], known[name][part])
                for name in block.gives
            ]
    return found


def _together(trials: Mapping[str, tf.Tensor]) -> Array:
    """Return all trials as one batch: a network is run, and planned by TensorFlow, once."""
    return np.concatenate([np.asarray(batch) for batch in trials.values()])


def _parts(trials: Mapping[str, tf.Tensor]) -> Iterator[tuple[str, slice]]:
    """Yield where in that batch the images of each kind are."""
    start = 0
    for images, batch in trials.items():
        yield images, slice(start, start + len(batch))
        start += len(batch)


def compare(form: str, images: str, output: tuple[str, str], given: Array, wanted: Array) -> Comparison:
    """Compare one output, which is told by its block and name, image by image."""
    flat, expected = (values.reshape(len(values), -1).astype(np.float64) for values in (given, wanted))
    difference = np.abs(flat - expected).max(axis=1)
    tiny = np.finfo(np.float32).tiny
    lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(expected, axis=1)
    return Comparison(
        form,
        images,
        *output,
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
