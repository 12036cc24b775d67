"""A Predict request written by hand around its pixels: they are copied once, where protobuf would copy them four times.

What is small is still protobuf's: only what surrounds a tensor's content, and the entry of the map that it stands in,
is put down byte by byte.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from numpy.typing import NDArray

from microtome.tfserving.v1.predict_pb2 import ModelSpec, PredictRequest
from microtome.tfserving.v1.tensor_pb2 import Tensor
from service.delimited import opening

_INPUTS, _KEY, _VALUE = PredictRequest.INPUTS_FIELD_NUMBER, 1, 2


class WireTensor(NamedTuple):
    """A serialised `Tensor` message, in pieces that are joined only in the request.

    Attributes:
        pieces: one behind the other.
        size: bytes of all of them.
    """

    pieces: Sequence[bytes | memoryview]
    size: int


def laid(head: Tensor, arrays: Sequence[NDArray[object]]) -> WireTensor:  # type: ignore[type-var]  # any dtype
    """Lay arrays one behind the other as the content of a tensor.

    Args:
        head: dtype and shape of the whole, and no content.
        arrays: C-contiguous and little-endian.
    """
    content = sum(array.nbytes for array in arrays)
    start = head.SerializeToString() + opening(Tensor.TENSOR_CONTENT_FIELD_NUMBER, content)
    return WireTensor((start, *(array.data for array in arrays)), len(start) + content)


def predict_request(spec: ModelSpec, inputs: Mapping[str, WireTensor], outputs: Sequence[str]) -> bytes:
    """Serialise a `PredictRequest`."""
    pieces: list[bytes | memoryview] = [PredictRequest(model_spec=spec, output_filter=outputs).SerializeToString()]
    for name, tensor in inputs.items():
        key = name.encode()
        entry = opening(_KEY, len(key)) + key + opening(_VALUE, tensor.size)
        pieces += [opening(_INPUTS, len(entry) + tensor.size) + entry, *tensor.pieces]
    return b"".join(pieces)
