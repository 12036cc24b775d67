"""The images and token ids that models are tried on, and the differences between two results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter.recipe.images import read_pixels
from microtome.golden import golden_pixels, golden_tokens
from microtome.manifest import InputSpec, TokensSpec

Array = np.ndarray[Any, Any]

_SEED = 20240131


def sample_pixels(height: int, width: int, channels: int = 3) -> Array:
    """Return uint8 [4, height, width, channels]: noise, a gradient, a checkerboard of single pixels, and mid grey."""
    noise = np.random.default_rng(_SEED).integers(0, 256, (height, width, channels), np.uint8)
    rows, columns = np.mgrid[0:height, 0:width]
    down, right = rows * 255 // height, columns * 255 // width
    gradient = np.stack([down, right, (rows + columns) % 256, 255 - down], axis=-1)[..., :channels]
    checkerboard = np.repeat((((rows + columns) % 2) * 255)[..., None], channels, axis=-1)
    grey = np.full((height, width, channels), 127)
    return np.stack([noise, gradient, checkerboard, grey]).astype(np.uint8)


def sample_tokens(tokens: TokensSpec) -> Array:
    """Return int32 [4, length]: noise, ids in a row, the largest id alone, and padding alone."""
    found = np.full((4, tokens.length), tokens.pad, np.int32)
    found[0] = np.random.default_rng(_SEED).integers(0, tokens.vocabulary, tokens.length)
    found[1] = np.arange(tokens.length) % tokens.vocabulary
    found[2, 0] = tokens.vocabulary - 1
    return found


def with_images(taken: InputSpec | TokensSpec, files: Sequence[Path]) -> Array:
    """Return the sample pixels followed by those of image files, uint8 [N, H, W, channels]; or the sample tokens."""
    if isinstance(taken, TokensSpec):
        return sample_tokens(taken)
    sample = sample_pixels(*taken.shape)
    if not files:
        return sample
    return np.concatenate([sample, np.stack([read_pixels(path, taken) for path in files])])


def golden_inputs(taken: InputSpec | TokensSpec, seed: int, count: int) -> Array:
    """Return the golden images or texts of a seed; see `microtome.golden`."""
    if isinstance(taken, TokensSpec):
        return golden_tokens(seed, 0, count, taken.length, taken.vocabulary, taken.pad)
    return golden_pixels(seed, 0, count, *taken.shape)


def relative_errors(actual: Array, expected: Array) -> Array:
    """Return the largest difference within each image, relative to that image's largest expected value, [N]."""
    axes = tuple(range(1, expected.ndim))
    scale = np.maximum(np.abs(expected).max(axis=axes), np.finfo(np.float32).tiny)
    errors: Array = np.abs(actual.astype(np.float64) - expected).max(axis=axes) / scale
    return errors


def cosines(actual: Array, expected: Array) -> Array:
    """Return the cosine between each image's actual and expected vector, [N]; 1 where both are zero."""
    found = actual.astype(np.float64).reshape(len(actual), -1)
    wanted = expected.astype(np.float64).reshape(len(expected), -1)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    both_zero = ~found.any(axis=1) & ~wanted.any(axis=1)
    return np.where(both_zero, 1.0, (found * wanted).sum(axis=1) / np.where(lengths == 0, 1.0, lengths))
