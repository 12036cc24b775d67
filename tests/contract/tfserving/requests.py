"""Builds the requests that the conformance tests send, and reads the answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

from tests.contract.tfserving.tiny_models import SIDE

Array = npt.NDArray[Any]

FLOAT, INT32, UINT8 = 1, 3, 4
NUMBERS = {np.dtype("f4"): FLOAT, np.dtype("i4"): INT32, np.dtype("u1"): UINT8}


def images(count: int, seed: int = 0, side: int = SIDE) -> Array:
    """Make random pixels: [count, side, side, 3] uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def tensor(array: Array) -> tensor_pb2.TensorProto:
    """Encode an array as raw bytes, as the gateway does."""
    proto = tensor_pb2.TensorProto(dtype=NUMBERS[array.dtype], tensor_content=array.tobytes())
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def predict(
    model: str = "tiny",
    *outputs: str,
    inputs: dict[str, Array] | None = None,
    signature: str = "",
    version: int | None = None,
    label: str | None = None,
) -> predict_pb2.PredictRequest:
    """Build a PredictRequest; without inputs, of one image."""
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    for alias, array in (inputs if inputs is not None else {"images": images(1)}).items():
        request.inputs[alias].CopyFrom(tensor(array))
    return request


def slow(laps: int, model: str = "tiny", version: int | None = None) -> predict_pb2.PredictRequest:
    """Build a request that takes a while: about a third of a millisecond per lap."""
    return predict(model, signature="work", inputs={"laps": np.full(1, laps, np.int32)}, version=version)


def floats(proto: tensor_pb2.TensorProto) -> Array:
    """Read a float32 tensor in either encoding."""
    shape = [dim.size for dim in proto.tensor_shape.dim]
    flat = np.frombuffer(proto.tensor_content, np.float32) if proto.tensor_content else np.asarray(proto.float_val)
    return flat.astype(np.float32).reshape(shape)
