"""The split pipeline: cut, write to a draft, read back, compare with the network, publish.

The comparison covers every output of every block, because a classifier with random weights returns almost equal scores
whatever its input is.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from exporter.errors import CannotPublish, ImpossibleSplit
from exporter.graph.network import Network
from exporter.head.scaling import scale
from exporter.models.building import Built
from exporter.recipe.files import image_files
from exporter.recipe.images import read_pixels
from exporter.runtime.terminal import stage
from exporter.savedmodel.drafts import draft_directory, flush
from exporter.split.blocks import FORMS, Block, between, read_chain, split, write_block
from exporter.verify.sample_images import cosines, relative_errors
from microtome.golden import SEED, golden_pixels
from microtome.manifest import InputSpec

DESCRIPTION = "split.json"
EQUALITY = 1e-4
"""Largest relative difference from the network."""
_PHOTOS = 3
_SEED = 20240131

Array = np.ndarray[Any, Any]
Trials = dict[str, tf.Tensor]
"""Images by kind, float32 [N, H, W, channels], scaled for the network."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference between one output of a block, at the end of the chain up to there, and the network's tensor.

    Attributes:
        form: One of `FORMS`.
        images: The kind of images.
        block: Name of the block.
        output: Name of its output.
        max_abs: Largest difference.
        max_rel: Largest difference, relative to the network's largest value for that image.
        cosine: Of the worst image.
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
        """Whether the difference is only rounding; NaN is not."""
        return self.max_rel <= EQUALITY


@dataclass(frozen=True, slots=True)
class Split:
    """The result of a split.

    Attributes:
        blocks: The blocks.
        comparisons: With the network.
        document: The description that is written with the blocks.
        published: Whether the blocks are in place; false if a comparison failed.
    """

    blocks: tuple[Block, ...]
    comparisons: tuple[Comparison, ...]
    document: dict[str, Any]
    published: bool


def split_to(built: Built, pixels: InputSpec, at: Sequence[str], out: Path, images: Path | None) -> Split:
    """Split a backbone and write its blocks to a new directory.

    Args:
        built: The backbone.
        pixels: The preprocessing it was built for.
        at: The layers to cut at.
        out: The directory; must not exist.
        images: A folder of photos for the comparison; None for synthetic images.

    Raises:
        ExporterError: See `exporter.errors`; nothing is written then.
    """
    trials = _trials(built, pixels, images)
    with stage(f"Cutting {built.row.name}"):
        blocks = split(built.model, at)
    return _published(built, blocks, out, trials)


def slice_to(built: Built, pixels: InputSpec, ends: tuple[str, str], out: Path, images: Path | None) -> Split:
    """Write the part between two layers to a new directory.

    Args:
        built: The backbone.
        pixels: The preprocessing it was built for.
        ends: The layer after which the slice begins, and its last layer.
        out: The directory; must not exist.
        images: A folder of photos for the comparison; None for synthetic images.

    Raises:
        ExporterError: See `exporter.errors`; nothing is written then.
    """
    trials = _trials(built, pixels, images)
    return _published(built, (between(built.model, *ends),), out, trials)


def _trials(built: Built, pixels: InputSpec, images: Path | None) -> Trials:
    """Return noise and photos as the network takes them, of the same shape, so that TensorFlow traces once."""
    if images is None:
        photos = golden_pixels(SEED, 0, _PHOTOS, *pixels.shape)
    elif files := image_files(images, _PHOTOS):
        photos = np.stack([read_pixels(file, pixels) for file in files])
    else:
        raise ImpossibleSplit(f"Expected --images with a folder of photos to try the blocks on. Received: {images}.")
    noise = np.random.default_rng(_SEED).integers(0, 256, photos.shape, np.uint8)
    trials = {"noise": noise, "photos" if images is not None else "texture": photos}
    return {name: scale(tf.constant(batch), built.row.scaling) for name, batch in trials.items()}


def _published(built: Built, blocks: tuple[Block, ...], out: Path, trials: Trials) -> Split:
    """Write the blocks to a draft, compare what was written, and move it into place if it equals the network."""
    with _draft(out) as draft:
        for block in blocks:
            with stage(f"Writing {block.model.name} of {built.row.name}"):
                write_block(draft, block)
        with stage("Proving that what was written equals the network"):
            found = tuple(prove(built.model, blocks, draft, trials))
        document = _described(built, blocks, found)
        (draft / DESCRIPTION).write_text(json.dumps(document, indent=1), encoding="utf-8")
        published = all(comparison.equal for comparison in found)
        if published:
            flush(draft)
            draft.rename(out)
    return Split(blocks, found, document, published)


def prove(model: keras.Model, blocks: Sequence[Block], directory: Path, trials: Trials) -> list[Comparison]:
    """Read written blocks, chain them from the network's own tensors, and compare every output with the network's.

    Args:
        model: The network, which runs once, on all images together.
        blocks: Its consecutive blocks.
        directory: Where they were written.
        trials: The images.
    """
    ends = [
        *blocks[0].ends[: len(blocks[0].takes)],
        *(end for block in blocks for end in block.ends[len(block.takes) :]),
    ]
    whole = keras.Model(Network(model).model.input, ends)
    batch = np.concatenate([np.asarray(images) for images in trials.values()])
    tensors = iter([np.asarray(tensor) for tensor in keras.tree.flatten(whole(batch, training=False))])
    taken = {name: next(tensors) for name in blocks[0].takes}
    expected = [{name: next(tensors) for name in block.gives} for block in blocks]
    found: list[Comparison] = []
    for form in FORMS:
        with read_chain(directory, [block.model.name for block in blocks], form) as chain:
            for block, given, wanted in zip(blocks, chain(taken), expected, strict=True):
                for name in block.gives:
                    start = 0
                    for kind, images in trials.items():
                        part = slice(start, start := start + len(images))
                        output = (block.model.name, name)
                        found.append(compare(form, kind, output, given[name][part], wanted[name][part]))
    return found


def compare(form: str, images: str, output: tuple[str, str], given: Array, wanted: Array) -> Comparison:
    """Compare one output, given by its block and name, image by image."""
    return Comparison(
        form,
        images,
        *output,
        float(np.abs(given.astype(np.float64) - wanted).max()),
        float(relative_errors(given, wanted).max()),
        float(cosines(given, wanted).min()),
    )


def _described(built: Built, blocks: Sequence[Block], found: Sequence[Comparison]) -> dict[str, Any]:
    return {
        "backbone": {"name": built.row.name, "weights": built.weights, "source": built.source},
        "scaling": built.row.scaling,
        "blocks": [
            {
                "name": block.model.name,
                "takes": {name: list(tensor.shape) for name, tensor in block.model.input.items()},
                "gives": {name: list(tensor.shape) for name, tensor in block.model.output.items()},
                "params": int(np.sum([np.prod(weight.shape) for weight in block.model.weights], dtype=np.int64)),
            }
            for block in blocks
        ],
        "proof": [asdict(comparison) for comparison in found],
    }


@contextlib.contextmanager
def _draft(out: Path) -> Iterator[Path]:
    """Yield a directory beside `out`, and remove it at the end unless it has been renamed."""
    if out.exists():
        raise CannotPublish(f"Expected a directory that is not there yet. Received: {out}. Remove it or name another.")
    try:
        with draft_directory(out.parent, f".{out.name}-") as draft:
            yield draft
    except (OSError, tf.errors.OpError) as error:  # TensorFlow's file system does not raise OSError
        said = error.message if isinstance(error, tf.errors.OpError) else error.strerror or error
        raise CannotPublish(f"Expected to write {out}. Received: {said}. Make room or give another --out.") from error
