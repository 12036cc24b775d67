"""From ``TensorProto`` to numpy: the three encodings that TensorFlow accepts, and their rules.

``tensor_content`` wins when present and must have exactly the right length. Otherwise the element type's own field
counts: no value means zeros, fewer values than elements repeat the last one (so a batch of blank images fits in a few
bytes: warm-up records do that), surplus values are ignored. A missing shape, or one of unknown rank, means a scalar.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelserver.errors import InvalidArgument, ResourceExhausted
from modelserver.tensor_types import TYPES, ElementType

if TYPE_CHECKING:
    from tensorflow.core.framework import tensor_pb2

Array = npt.NDArray[Any]

LARGEST_TENSOR_BYTES = 2**31 - 1
"""No message can carry more (protobuf's own limit), so only a broadcast could ask for it: a bomb."""

_BITS_16 = ("half", "bfloat16")


def decode(proto: "tensor_pb2.TensorProto", alias: str, content: bytes | memoryview | None = None) -> Array:
    """Read one tensor.

    Args:
        proto: The ``tensorflow.TensorProto``.
        alias: Its name in the request, for the message.
        content: Its ``tensor_content``, if that was lifted out of it; no string's.

    Returns:
        An array of the proto's shape and element type; it may be read-only. Strings are an object array of bytes.

    Raises:
        InvalidArgument: The proto contradicts itself.
        ResourceExhausted: Its shape asks for more than ``LARGEST_TENSOR_BYTES``.
    """
    row = TYPES.get(proto.dtype)
    shape = () if proto.tensor_shape.unknown_rank else tuple(dim.size for dim in proto.tensor_shape.dim)
    if row is None or any(size < 0 for size in shape):
        raise InvalidArgument(f"tensor parsing error: {alias}")
    count = math.prod(shape)
    if count * row.dtype.itemsize > LARGEST_TENSOR_BYTES:
        raise ResourceExhausted(f"OOM when allocating tensor with shape[{','.join(map(str, shape))}]")
    content = content or proto.tensor_content
    try:
        flat = _from_content(content, row, count) if content else _from_values(proto, row, count)
    except ValueError as error:
        raise InvalidArgument(f"tensor parsing error: {alias}") from error
    return flat.reshape(shape)


def _from_content(content: bytes | memoryview, row: ElementType, count: int) -> Array:
    """Read ``tensor_content``; ValueError when its length is wrong."""
    if row.name == "string":
        return _objects(_split_strings(bytes(content), count))
    if len(content) != count * row.dtype.itemsize:
        raise ValueError(f"{len(content)} bytes for {count} elements of {row.name}")
    return from_memory(content, row.dtype)


def from_memory(content: bytes | memoryview, dtype: np.dtype[np.generic]) -> Array:
    """Read numbers where they stand; copied only when that is no address for a number of this type."""
    array = np.frombuffer(content, dtype)
    return array if array.flags.aligned else array.copy()


def _from_values(proto: "tensor_pb2.TensorProto", row: ElementType, count: int) -> Array:
    """Read the element type's repeated field, repeating the last value as often as needed."""
    values = getattr(proto, row.field)
    if row.name == "string":
        return _repeat_last(_objects(list(values)[:count]), count, b"")
    if not values:
        return np.zeros(count, row.dtype)
    numbers: Array = np.asarray(values, row.wire)  # protobuf's containers hand over their memory: no Python list
    if row.name in _BITS_16:
        numbers = numbers.astype(np.uint16).view(row.dtype)
    elif row.dtype.kind == "c":
        numbers = numbers[: len(numbers) // 2 * 2].view(row.dtype)
    else:
        numbers = numbers.astype(row.dtype, copy=False)
    return _repeat_last(numbers[:count], count, 0)


def _repeat_last(values: Array, count: int, blank: object) -> Array:
    """Stretch ``values`` to ``count`` elements."""
    if len(values) == count:
        return values
    stretched: Array = np.full(count, values[-1] if len(values) else blank, values.dtype)
    stretched[: len(values)] = values
    return stretched


def _objects(strings: list[bytes]) -> Array:
    """Put byte strings in an object array (numpy's own string type would eat trailing zero bytes)."""
    array = np.empty(len(strings), object)
    array[:] = strings
    return array


def _split_strings(content: bytes, count: int) -> list[bytes]:
    """Split TensorFlow's string list: ``count`` varint lengths, then the bytes of all strings."""
    lengths, at = [], 0
    for _ in range(count):
        length = shift = 0
        while True:
            if at >= len(content) or shift > 28:
                raise ValueError("the lengths do not end")
            byte = content[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if at + sum(lengths) != len(content):
        raise ValueError("the lengths do not add up")
    strings = []
    for length in lengths:
        strings.append(content[at : at + length])
        at += length
    return strings
