"""Pixels to tensors and tensors to vectors, without ever building a Python list of numbers."""

from collections.abc import Sequence
from math import prod

import numpy as np

from microtome.manifest import ModelCard
from microtome.tfserving.v1.predict_pb2 import PredictResponse
from microtome.tfserving.v1.tensor_pb2 import DataType, Tensor, TensorShape
from service.core.ports import Pixels, Vectors
from service.errors import ModelServerFault
from service.model_server.predict_encoding import WireTensor, laid

IMAGES = "images"
"""Alias of the input in the `serving_default` signature."""


def pixels_tensor(images: Sequence[Pixels]) -> WireTensor:
    """Lay N images, each uint8 [height, width, 3], one behind the other: not copied before the request is."""
    shape = _shape((len(images), *images[0].shape))
    return laid(Tensor(dtype=DataType.DATA_TYPE_UINT8, tensor_shape=shape), images)


def query_tensor() -> WireTensor:
    """Build the `manifest` signature's input: one number, which says nothing but the batch size."""
    return laid(Tensor(dtype=DataType.DATA_TYPE_INT32, tensor_shape=_shape((1,))), [np.zeros(1, "<i4")])


def vectors(answer: PredictResponse, card: ModelCard, outputs: Sequence[str], rows: int) -> dict[str, Vectors]:
    """Read named vectors, each float32 [rows, D], and check all that the server might get wrong.

    TensorFlow Serving never checks shapes: given the wrong pixels it answers OK with numbers that mean nothing.

    Raises:
        ModelServerFault: another version, a missing output, a wrong dtype, shape or length, a value that is not finite.
    """
    if answer.model_spec.version.value != card.version:
        raise ModelServerFault(
            f"Asked for version {card.version} of {card.name!r}, got {answer.model_spec.version.value}."
        )
    return {name: _vectors(answer, name, rows, card.outputs[name].dim) for name in outputs}


def _vectors(answer: PredictResponse, name: str, rows: int, dim: int) -> Vectors:
    tensor = answer.outputs.get(name)
    if tensor is None or tensor.dtype != DataType.DATA_TYPE_FLOAT:
        raise ModelServerFault(f"The model server did not return output {name!r} as float32.")
    # *_val is what the server sends unless told otherwise; a packed float_val is the same bytes as tensor_content.
    content = tensor.tensor_content or tensor.float_val
    shape = [d.size for d in tensor.tensor_shape.dim]
    if not shape or shape[0] != rows or prod(shape) != rows * dim or len(content) != 4 * rows * dim:
        raise ModelServerFault(f"Expected output {name!r} of {rows} x {dim} numbers, got shape {shape}.")
    found = np.frombuffer(content, "<f4").reshape(rows, dim)
    if not np.isfinite(found).all():
        spoiled = np.flatnonzero(~np.isfinite(found).all(axis=1)).tolist()
        raise ModelServerFault(f"Output {name!r} has values that are not finite.", rows=spoiled)
    return found


def _shape(sizes: Sequence[int]) -> TensorShape:
    return TensorShape(dim=[TensorShape.Dim(size=size) for size in sizes])
