"""Predict requests and answers: pixels and ids to tensors, tensors to vectors, and manifests; no lists of numbers.

A request is written by hand around its pixels, which are copied once; protobuf would copy them four times. Only what
surrounds a tensor's content, and its map entry, is written by hand; the rest is protobuf's.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from microtome.errors import ModelServerFault
from microtome.manifest import InputSpec, Manifest, ModelCard, TokensSpec
from microtome.protobuf import after_varint, field_prefix
from microtome.tfserving.v1.predict_pb2 import ModelSpec, PredictRequest, PredictResponse
from microtome.tfserving.v1.tensor_pb2 import DataType, Tensor, TensorShape
from service.core.ports import Pixels, Tokens, Vectors

IMAGES, TOKENS = "images", "tokens"
"""Alias of the input in the `serving_default` signature: of a model of images, and of a text tower."""

_INPUTS, _KEY, _VALUE = PredictRequest.INPUTS_FIELD_NUMBER, 1, 2
_ADAPTER = TypeAdapter(Manifest)
_FORMS = (InputSpec.__name__, TokensSpec.__name__)
"""Of a manifest's input, as errors name them."""


class WireTensor(NamedTuple):
    """A serialised `Tensor` message, in pieces that are joined only in the request.

    Attributes:
        pieces: to be concatenated.
        size: bytes of all of them.
    """

    pieces: Sequence[bytes | memoryview]
    size: int


def tensor_of(head: Tensor, arrays: Sequence[NDArray[object]]) -> WireTensor:  # type: ignore[type-var]  # any dtype
    """Concatenate arrays as the content of a tensor.

    Args:
        head: dtype and shape of the whole, and no content.
        arrays: C-contiguous and little-endian.
    """
    content = sum(array.nbytes for array in arrays)
    start = head.SerializeToString() + field_prefix(Tensor.TENSOR_CONTENT_FIELD_NUMBER, content)
    return WireTensor((start, *(array.data for array in arrays)), len(start) + content)


def predict_request(spec: ModelSpec, inputs: Mapping[str, WireTensor], outputs: Sequence[str]) -> bytes:
    """Serialise a `PredictRequest`."""
    pieces: list[bytes | memoryview] = [PredictRequest(model_spec=spec, output_filter=outputs).SerializeToString()]
    for name, tensor in inputs.items():
        key = name.encode()
        entry = field_prefix(_KEY, len(key)) + key + field_prefix(_VALUE, tensor.size)
        pieces += [field_prefix(_INPUTS, len(entry) + tensor.size) + entry, *tensor.pieces]
    return b"".join(pieces)


def pixels_tensor(images: Sequence[Pixels]) -> WireTensor:
    """Concatenate N images, each uint8 [height, width, channels]: copied only into the request."""
    shape = _shape((len(images), *images[0].shape))
    return tensor_of(Tensor(dtype=DataType.DATA_TYPE_UINT8, tensor_shape=shape), images)


def inputs_of(rows: Sequence[Pixels | Tokens]) -> dict[str, WireTensor]:
    """Write the input of `serving_default`: images, or texts, each int32 [length]."""
    if rows[0].dtype == np.uint8:
        return {IMAGES: pixels_tensor(rows)}  # type: ignore[arg-type]  # all are of one kind
    shape = _shape((len(rows), *rows[0].shape))
    return {TOKENS: tensor_of(Tensor(dtype=DataType.DATA_TYPE_INT32, tensor_shape=shape), rows)}


def blank(manifest: Manifest) -> Pixels | Tokens:
    """Return an input without content: a black image, or a text of padding."""
    if isinstance(manifest.input, TokensSpec):
        return np.full(manifest.input.shape, manifest.input.pad, np.int32)
    return np.zeros(manifest.input.shape, np.uint8)


def query_tensor(number: int = 0) -> WireTensor:
    """Build the input of `tokenizer`, a part's number; or of `manifest`, where it sets nothing but the batch size."""
    return tensor_of(Tensor(dtype=DataType.DATA_TYPE_INT32, tensor_shape=_shape((1,))), [np.full(1, number, "<i4")])


def vectors(answer: PredictResponse, card: ModelCard, outputs: Sequence[str], rows: int) -> dict[str, Vectors]:
    """Read named vectors, each float32 [rows, D], and check everything that the server might get wrong.

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


def read_bytes(answer: PredictResponse, output: str) -> bytes:
    """Return the only string of an output; empty where there is none."""
    tensor = answer.outputs.get(output)
    if tensor is None or not tensor.string_val:
        # In tensor_content, strings are varint lengths followed by the bytes; here is one string.
        return bytes(after_varint(tensor.tensor_content)) if tensor is not None else b""
    return tensor.string_val[0]


def read_manifest(model: str, answer: PredictResponse) -> Manifest:
    """Parse and check the manifest.

    Fields that we do not know are ignored, so that a newer exporter can add some; a newer `schema` is refused.

    Raises:
        ModelServerFault: no manifest, or one that we cannot read.
    """
    try:
        manifest = _ADAPTER.validate_json(read_bytes(answer, "manifest"))
    except ValidationError as error:
        first = _nearest(error)
        where = ".".join(str(part) for part in first["loc"] if part not in _FORMS) or "the document"
        raise ModelServerFault(
            f"Model {model!r} has a manifest that we cannot read: {where}: {first['msg']}."
        ) from error
    if min(*manifest.input.shape, manifest.max_batch_size) < 1:
        raise ModelServerFault(f"Model {model!r} has a manifest with a size or a largest batch of nothing.")
    if manifest.schema > 1 and manifest.golden is None:
        raise ModelServerFault(f"Model {model!r} has a manifest of version {manifest.schema} without golden vectors.")
    if manifest.default_output not in {output.name for output in manifest.outputs}:
        raise ModelServerFault(f"Model {model!r} names a default output that it does not have.")
    return manifest


def _nearest(error: ValidationError) -> ErrorDetails:
    """Return the first error; of an input that is neither of both, in the form that it is nearest to."""
    errors = error.errors(include_url=False, include_input=False)
    forms = {form: [each for each in errors if form in each["loc"]] for form in _FORMS}
    others = [each for each in errors if not any(form in each["loc"] for form in _FORMS)]
    return [*others, *min(forms.values(), key=len)][0]


def _shape(sizes: Sequence[int]) -> TensorShape:
    return TensorShape(dim=[TensorShape.Dim(size=size) for size in sizes])
