"""Heat maps over the positions of a layer: channel norm, EigenCAM, and LayerCAM to a class or to another photo."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from exporter.graph.cut_points import Field
from exporter.graph.network import Network
from exporter.head.pooling import pool
from exporter.look.backpropagation import Seed, obstacle, run
from exporter.look.pictures import as_picture, overlaid, reduced
from exporter.look.subject import Passed, Request, Subject
from exporter.recipe.images import read_pixels
from exporter.runtime.terminal import counted

SIDE = 192
"""Longest side of a heat map, in pixels."""

_ROWS = 4096

Array = np.ndarray[Any, Any]
Target = Callable[[tf.Tensor], tf.Tensor]
"""From a layer's maps [N, H, W, C] to the number that is explained for each image, [N]."""


class Tile(NamedTuple):
    """A picture with its caption; pixels are uint8 [h, w, 3]."""

    title: str
    pixels: Array


class Compared(NamedTuple):
    """A photo with its heat maps, and a partner with its own; without a partner `cosine` is 0."""

    photo: Path
    tiles: list[Tile]
    partner: Path | None
    cosine: float
    partner_tiles: list[Tile]


def channel_norm(maps: Array) -> Array:
    """Return the length of each position's vector: [H, W] of [H, W, C]."""
    return np.asarray(np.linalg.norm(maps, axis=-1))


def eigen_cam(maps: Array) -> Array:
    """Return what the first principal component says of each position: [H, W] of [H, W, C].

    Muhammad and Yeasin 2020 (arXiv:2008.00299), without centring as there; a component's sign is arbitrary, and the one
    with the larger positive part is taken.
    """
    height, width, channels = maps.shape
    flat = maps.reshape(-1, channels).astype(np.float64)
    # The smaller of the two products: maps have up to 50,000 positions, and layers up to 4,096 channels.
    if len(flat) < channels:
        said = np.linalg.eigh(flat @ flat.T)[1][:, -1]
    else:
        said = flat @ np.linalg.eigh(flat.T @ flat)[1][:, -1]
    if np.maximum(said, 0).sum() < np.maximum(-said, 0).sum():
        said = -said
    return np.asarray(np.maximum(said, 0).reshape(height, width))


def layer_cam(network: Network, images: tf.Tensor, tensor: keras.KerasTensor, target: Target) -> Array:
    """Return LayerCAM: each position's activations, weighted by the positive part of their own gradients.

    Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", equations 5 to 7.

    Args:
        network: The network.
        images: What it takes, [N, H, W, 3].
        tensor: The layer's maps.
        target: What is explained.

    Returns:
        float [N, H, W].
    """
    (maps,) = run(network, {id(network.model.inputs[0]): images}, [tensor])
    weights = tf.nn.relu(gradient(maps, target))
    return np.asarray(tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1)))


def gradient(maps: tf.Tensor, target: Target) -> tf.Tensor:
    """Return the gradient of a target by a layer's maps, of their shape."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(maps)
        value = target(maps)
    return tape.gradient(value, maps)


def class_target(
    network: Network, images: tf.Tensor, tensor: keras.KerasTensor, scores: keras.KerasTensor, index: int
) -> Target:
    """Return the score of a class, before the softmax, as a function of a layer's maps."""

    def target(maps: tf.Tensor) -> tf.Tensor:
        # What goes round the layer, such as a shortcut, comes from the images.
        known = {id(network.model.inputs[0]): images, id(tensor): maps}
        return run(network, known, [scores], scores=True)[0][:, index]

    return target


def likeness_target(vector: Array, pooling: str) -> Target:
    """Return the cosine of a layer's pooled maps with another photo's vector."""
    other = tf.math.l2_normalize(tf.constant(vector.reshape(-1), tf.float32), axis=0)

    def target(maps: tf.Tensor) -> tf.Tensor:
        own = pool(maps, pooling)
        return tf.linalg.matvec(tf.math.l2_normalize(tf.reshape(own, [tf.shape(own)[0], -1]), axis=1), other)

    return target


def over_pixels(heat: Array, field: Field, height: int, width: int) -> Array:
    """Enlarge a heat map to the pixels: each position's value at the centre of what it sees, linear in between.

    Args:
        heat: [rows, columns].
        field: The receptive field of its positions; where it is not known, they are spread evenly.
        height: Pixels.
        width: Pixels.

    Returns:
        float [height, width], from 0 to 1; 0 everywhere if the map is.
    """
    for axis, side in enumerate((height, width)):
        count = heat.shape[axis]
        if field.known and field.spans is not None:
            span = field.spans[axis]
            first, stride = float(span.first + span.last) / 2, float(span.stride)
        else:
            stride = side / count
            first = (stride - 1) / 2
        centres = first + stride * np.arange(count)
        heat = np.apply_along_axis(partial(np.interp, np.arange(side), centres), axis, heat)
    return heat / (heat.max() or 1)


def compare(subject: Subject, photos: Passed, request: Request) -> Iterator[Compared]:
    """Yield heat maps of photos that are spread evenly over all of them."""
    count = min(request.heat, len(photos.there))
    chosen = [int(photos.there[index * len(photos.there) // count]) for index in range(count)]
    for index in counted(chosen, count, f"{subject.name}: heat maps", delay=1):
        pixels = read_pixels(photos.files[index], subject.pixels)
        tiles = list(_tiles(subject, pixels, request.class_index))
        partner = request.like or _nearest(photos, index)
        if partner is None:
            yield Compared(photos.files[index], tiles, None, 0.0, [])
            continue
        other = read_pixels(partner, subject.pixels)
        own, theirs = (_vector(subject, one, request.pooling) for one in (pixels, other))
        tiles.append(Tile("LayerCAM: likeness", _alike(subject, pixels, theirs, request.pooling)))
        if subject.scores is None and not subject.obstacle:
            target = likeness_target(theirs, request.pooling)
            seed = partial(gradient, target=target)
            tiles.append(_guided(subject, pixels, subject.tensor, seed, "likeness"))
        others = [Tile("photo", reduced(other, SIDE))]
        others.append(Tile("LayerCAM: likeness", _alike(subject, other, own, request.pooling)))
        yield Compared(photos.files[index], tiles, partner, float(_unit(own) @ _unit(theirs)), others)


def _nearest(photos: Passed, index: int) -> Path | None:
    """Return the photo whose vector has the largest cosine with that of another; None without others."""
    vectors, rest = photos.store.vectors("vector"), photos.there[photos.there != index]
    own, best = _unit(vectors[index]), (-2.0, -1)
    for start in range(0, len(rest), _ROWS):
        block = rest[start : start + _ROWS]
        cosines = _unit(vectors[block]) @ own
        best = max(best, (float(cosines.max()), int(block[cosines.argmax()])))
    return photos.files[best[1]] if len(rest) else None


def _tiles(subject: Subject, pixels: Array, class_index: int | None) -> Iterator[Tile]:
    """Yield the photo and the heat maps that need no other photo."""
    maps = np.asarray(subject.maps(pixels)[0])
    yield Tile("photo", reduced(pixels, SIDE))
    yield Tile("channel norm", _over(subject, pixels, channel_norm(maps)))
    yield Tile("EigenCAM", _over(subject, pixels, eigen_cam(maps)))
    if subject.scores is None:
        return
    images = subject.scaled(tf.constant(pixels[None]))
    (scores,) = run(subject.network, {id(subject.network.model.inputs[0]): images}, [subject.scores], scores=True)
    index = int(np.argmax(scores[0])) if class_index is None else class_index
    target = class_target(subject.network, images, subject.tensor, subject.scores, index)
    yield Tile(
        f"LayerCAM: class {index}",
        _over(subject, pixels, layer_cam(subject.network, images, subject.tensor, target)[0]),
    )
    if obstacle(subject.network, subject.scores) is None:

        def seed(values: tf.Tensor) -> tf.Tensor:
            return tf.one_hot([index], values.shape[1], dtype=values.dtype)

        yield _guided(subject, pixels, subject.scores, seed, f"class {index}")


def _guided(subject: Subject, pixels: Array, tensor: keras.KerasTensor, seed: Seed, what: str) -> Tile:
    back = subject.back(pixels[None], tensor, seed, "guided")[0]
    return Tile(f"guided backpropagation: {what}", reduced(as_picture(back), SIDE))


def _vector(subject: Subject, pixels: Array, pooling: str) -> Array:
    return np.asarray(pool(subject.maps(pixels), pooling)).reshape(-1)


def _alike(subject: Subject, pixels: Array, vector: Array, pooling: str) -> Array:
    images = subject.scaled(tf.constant(pixels[None]))
    heat = layer_cam(subject.network, images, subject.tensor, likeness_target(vector, pooling))[0]
    return _over(subject, pixels, heat)


def _over(subject: Subject, pixels: Array, heat: Array) -> Array:
    return reduced(overlaid(pixels, over_pixels(heat, subject.field, *pixels.shape[:2])), SIDE)


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))
