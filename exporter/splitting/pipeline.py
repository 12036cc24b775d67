"""One split from beginning to end: cut → write → read back → prove → publish."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from exporter.building import Built
from exporter.calibration_folder import image_files
from exporter.drafts import draft_directory, flush
from exporter.errors import CannotPublish, ImpossibleSplit
from exporter.preprocessing import Preprocessing
from exporter.progress import stage
from exporter.scaling import scale
from exporter.splitting.blocks import Block, between, split
from exporter.splitting.proof import Comparison, noise, photos, prove, prove_slice
from exporter.splitting.saved_blocks import write_block

DESCRIPTION = "split.json"
_PHOTOS = 3


@dataclass(frozen=True, slots=True)
class Split:
    """What came of a split.

    Attributes:
        blocks: The blocks.
        comparisons: With the network.
        document: What is written beside the blocks, for programs.
        published: Whether they are where they should be; not when a comparison failed.
    """

    blocks: tuple[Block, ...]
    comparisons: tuple[Comparison, ...]
    document: dict[str, Any]
    published: bool


def split_to(built: Built, pixels: Preprocessing, at: Sequence[str], out: Path, images: Path) -> Split:
    """Split a backbone and write its blocks to a directory that is not there yet.

    Args:
        built: The backbone.
        pixels: What it was built for.
        at: The layers to cut at.
        out: The directory.
        images: A folder of photos to try the blocks on.

    Raises:
        ExporterError: See `exporter.errors`; nothing is written then.
    """
    trials = _trials(built, pixels, images)
    with stage(f"Cutting {built.row.name}"):
        blocks = split(built.model, at)
    return _published(built, blocks, out, lambda draft: prove(built.model, blocks, draft, trials))


def slice_to(built: Built, pixels: Preprocessing, ends: tuple[str, str], out: Path, images: Path) -> Split:
    """Write what lies between two layers to a directory that is not there yet.

    Args:
        built: The backbone.
        pixels: What it was built for.
        ends: The layer after which the slice begins, and the one that it ends with.
        out: The directory.
        images: A folder of photos to try the slice on.

    Raises:
        ExporterError: See `exporter.errors`; nothing is written then.
    """
    trials = _trials(built, pixels, images)
    block = between(built.model, *ends)
    return _published(built, (block,), out, lambda draft: prove_slice(built.model, block, draft, trials))


def _trials(built: Built, pixels: Preprocessing, images: Path) -> dict[str, tf.Tensor]:
    """Return noise and photos as the network takes them, of one shape, so that TensorFlow plans once."""
    files = image_files(images, _PHOTOS)
    if not files:
        raise ImpossibleSplit(f"Expected a folder with photos to try the blocks on. Received: {images}. Give --images.")
    real = photos(files, pixels)
    batches = {"noise": noise(real.shape), "photos": real}
    return {name: scale(tf.constant(batch), built.row.scaling) for name, batch in batches.items()}


def _published(
    built: Built, blocks: tuple[Block, ...], out: Path, prove_in: Callable[[Path], list[Comparison]]
) -> Split:
    """Write the blocks to a draft, prove what was written, and move it into place if it is right."""
    with _drafted(out) as draft:
        _write(draft, built, blocks)
        with stage("Proving that what was written equals the network"):
            found = tuple(prove_in(draft))
        document = _described(built, blocks, found)
        (draft / DESCRIPTION).write_text(json.dumps(document, indent=1), encoding="utf-8")
        published = all(comparison.equal for comparison in found)
        if published:
            flush(draft)
            draft.rename(out)
    return Split(blocks, found, document, published)


def _write(draft: Path, built: Built, blocks: Sequence[Block]) -> None:
    for block in blocks:
        with stage(f"Writing {block.model.name} of {built.row.name}"):
            write_block(draft, block)


def _described(built: Built, blocks: Sequence[Block], found: Sequence[Comparison]) -> dict[str, Any]:
    return {
        "backbone": {"name": built.row.name, "weights": built.weights, "source": built.source},
        "scaling": built.row.scaling,
        "blocks": [
            {
                "name": block.model.name,
                "takes": _shapes(block.model.input),
                "gives": _shapes(block.model.output),
                "params": int(np.sum([np.prod(weight.shape) for weight in block.model.weights], dtype=np.int64)),
            }
            for block in blocks
        ],
        "proof": [asdict(comparison) for comparison in found],
    }


def _shapes(tensors: dict[str, keras.KerasTensor]) -> dict[str, list[Any]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


@contextlib.contextmanager
def _drafted(out: Path) -> Iterator[Path]:
    """Give a directory beside `out` to write to, and take it away unless it has been renamed."""
    if out.exists():
        raise CannotPublish(f"Expected a directory that is not there yet. Received: {out}. Remove it or name another.")
    try:
        with draft_directory(out.parent, f".{out.name}-") as draft:
            yield draft
    except (OSError, tf.errors.OpError) as error:  # TensorFlow's file system does not raise OSError
        said = error.message if isinstance(error, tf.errors.OpError) else error.strerror or error
        raise CannotPublish(f"Expected to write {out}. Received: {said}. Make room or give another --out.") from error
