"""Prove that what was written computes what Keras computes, before anybody can see it.

The SavedModel is loaded afresh into the runtime that TensorFlow Serving uses, and is held against the Keras slice on
the same pixels. Keras' side scales with `preprocess_input` and pools with numpy, so that the graph's own scaling and
pooling are under test too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from exporter.errors import VerificationFailed
from exporter.freezing import INPUT
from exporter.publication import ASSETS, MANIFEST_FILE
from exporter.saved_model import MANIFEST, METHOD, QUERY, SERVING
from exporter.slicing import Slice

_EQUALITY = 1e-4
_BATCH_INVARIANCE = 1e-5
_SEED = 20240131
_STATEFUL_OPS = ("VarHandleOp", "VariableV2", "ReadVariableOp", "PartitionedCall", "StatefulPartitionedCall")

Vectors = Mapping[str, np.ndarray[Any, Any]]


def verify(directory: Path, slice_: Slice) -> None:
    """Verify a written SavedModel against the slice that it was made from.

    Raises:
        VerificationFailed: It differs; says where and by how much.
    """
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(directory))
        _check_graph(meta)
        _check_signatures(meta, slice_)
        _check_manifest(session, meta, directory)
        height, width = slice_.model.inputs[0].shape[1:3]
        pixels = trial_pixels(height, width)
        together = _run(session, meta, pixels)
        apart = [_run(session, meta, pixels[index : index + 1]) for index in range(len(pixels))]
    alone = {name: np.concatenate([vectors[name] for vectors in apart]) for name in together}
    _compare(together, reference(slice_, pixels), _EQUALITY, "Keras on the same pixels")
    _compare(together, alone, _BATCH_INVARIANCE, "the same image alone in its batch")


def reference(slice_: Slice, pixels: np.ndarray[Any, Any]) -> Vectors:
    """Compute the slice's outputs with Keras and numpy.

    Args:
        slice_: The slice.
        pixels: uint8 [N, H, W, 3], RGB.

    Returns:
        By output name, float32 [N, ...].
    """
    images = pixels.astype(np.float32)
    module = slice_.built.row.module
    if module is not None:
        images = getattr(keras.applications, module).preprocess_input(images)
    features = slice_.model(images, training=False)
    pools = {"avg": lambda x: x.mean(axis=(1, 2)), "max": lambda x: x.max(axis=(1, 2)), "none": lambda x: x}
    return {
        output.recipe.name: pools[output.recipe.pooling](np.asarray(features[output.recipe.name]))
        for output in slice_.outputs
    }


def trial_pixels(height: int, width: int) -> np.ndarray[Any, Any]:
    """Return uint8 [4, height, width, 3]: noise, a gradient, a checkerboard of single pixels, and mid grey."""
    noise = np.random.default_rng(_SEED).integers(0, 256, (height, width, 3), np.uint8)
    rows, columns = np.mgrid[0:height, 0:width]
    gradient = np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], axis=-1)
    checkerboard = np.repeat((((rows + columns) % 2) * 255)[..., None], 3, axis=-1)
    grey = np.full((height, width, 3), 127)
    return np.stack([noise, gradient, checkerboard, grey]).astype(np.uint8)


def relative_error(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Return the largest difference within an image, relative to that image's largest expected value; worst image."""
    axes = tuple(range(1, expected.ndim))
    scale = np.maximum(np.abs(expected).max(axis=axes), np.finfo(np.float32).tiny)
    return float((np.abs(actual.astype(np.float64) - expected).max(axis=axes) / scale).max())


def _run(session: tf.compat.v1.Session, meta: tf.compat.v1.MetaGraphDef, pixels: np.ndarray[Any, Any]) -> Vectors:
    signature = meta.signature_def[SERVING]
    fetches = {name: info.name for name, info in signature.outputs.items()}
    vectors: Vectors = session.run(fetches, {signature.inputs[INPUT].name: pixels})
    return vectors


def _compare(actual: Vectors, expected: Vectors, allowed: float, against: str) -> None:
    for name, vectors in expected.items():
        error = relative_error(actual[name], vectors)
        if not error <= allowed:  # so that NaN fails too
            raise VerificationFailed(
                f"Expected the output {name} to equal {against} within {allowed:g} relative. Received: {error:.2g}. "
                "Nothing was published."
            )


def _check_graph(meta: tf.compat.v1.MetaGraphDef) -> None:
    stateful = sorted({node.op for node in meta.graph_def.node if node.op in _STATEFUL_OPS})
    if stateful or meta.graph_def.library.function:
        functions = [function.signature.name for function in meta.graph_def.library.function]
        raise VerificationFailed(f"Expected a frozen, flat graph. Received: {', '.join([*stateful, *functions])}.")


def _check_signatures(meta: tf.compat.v1.MetaGraphDef, slice_: Slice) -> None:
    expected = {output.recipe.name: [-1, *output.shape] for output in slice_.outputs}
    outputs = meta.signature_def[SERVING].outputs
    received = {name: [dim.size for dim in info.tensor_shape.dim] for name, info in outputs.items()}
    kinds = {info.dtype for info in outputs.values()}
    methods = {signature.method_name for signature in meta.signature_def.values()}
    if received != expected or kinds != {tf.float32.as_datatype_enum} or methods != {METHOD}:
        raise VerificationFailed(f"Expected the signature outputs {expected}, float32. Received: {received}.")


def _check_manifest(session: tf.compat.v1.Session, meta: tf.compat.v1.MetaGraphDef, directory: Path) -> None:
    signature = meta.signature_def[MANIFEST]
    answers = session.run(signature.outputs[MANIFEST].name, {signature.inputs[QUERY].name: np.zeros(2, np.int32)})
    written = (directory / ASSETS / MANIFEST_FILE).read_bytes()
    if list(answers) != [written, written]:
        raise VerificationFailed(f"Expected the manifest signature to answer {MANIFEST_FILE}. Received: other text.")
