"""A ``PredictResponse`` put down byte by byte around its values, which are copied once.

What is small is still protobuf's: only the entries of the map that tensors stand in are written by hand, and what
answers of one kind have in common is written once.
"""

from collections.abc import Mapping
from functools import lru_cache

from tensorflow_serving.apis import predict_pb2

from modelserver.tensor_encoding import Array, encode
from modelserver.wire_fields import opening

_OUTPUTS, _KEY, _VALUE = 1, 1, 2


def write_answer(name: str, version: int, signature: str, outputs: Mapping[str, Array], *, as_content: bool) -> bytes:
    """Serialise a ``tensorflow.serving.PredictResponse``.

    Args:
        name: Of the model.
        version: The version that computed the outputs.
        signature: The name of the signature that did.
        outputs: Arrays by alias.
        as_content: Whether tensors leave as raw bytes instead of repeated values.

    Raises:
        Internal: An output has an element type that TensorFlow Serving cannot answer with.
    """
    pieces = []
    for alias, array in outputs.items():
        head, values = encode(array, as_content=as_content)
        pieces += [_entry(alias, len(head) + len(values)), head, values]
    return b"".join([*pieces, _model_spec(name, version, signature)])


@lru_cache(256)
def _entry(alias: str, size: int) -> bytes:
    """Write an entry of the outputs up to its tensor of ``size`` bytes."""
    key = alias.encode()
    before = opening(_KEY, len(key)) + key + opening(_VALUE, size)
    return opening(_OUTPUTS, len(before) + size) + before


@lru_cache(256)
def _model_spec(name: str, version: int, signature: str) -> bytes:
    answer = predict_pb2.PredictResponse()
    answer.model_spec.name = name
    answer.model_spec.version.value = version
    answer.model_spec.signature_name = signature
    serialised: bytes = answer.SerializeToString()
    return serialised
