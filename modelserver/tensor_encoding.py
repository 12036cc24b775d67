"""From numpy to ``TensorProto``, in either of the two forms that TensorFlow Serving answers with.

By default values stand in the element type's own repeated field (``float_val`` and so on); with
``--enable_serialization_as_tensor_content`` they stand as raw bytes in ``tensor_content``.
"""

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelserver.errors import Internal
from modelserver.tensor_types import BY_DTYPE, TYPES

if TYPE_CHECKING:
    from tensorflow.core.framework import tensor_pb2

Array = npt.NDArray[Any]

# Types whose packed wire form is their memory: fixed-width little-endian numbers, and bool, whose varint is one byte.
# For 32x2048 float32 this takes 0.02 ms where float_val.extend(list) takes 1.9 ms.
_PACKED = {"float": 5, "double": 6, "bool": 11}
_STRING = 7


def encode(array: Array, proto: "tensor_pb2.TensorProto", *, as_content: bool) -> None:
    """Write an array into an empty ``TensorProto``.

    Args:
        array: Values of any type in ``tensor_types``; object arrays hold ``bytes``.
        proto: The ``tensorflow.TensorProto`` to fill.
        as_content: Whether to use ``tensor_content``.

    Raises:
        Internal: The array has an element type that TensorFlow Serving cannot answer with.
    """
    row = TYPES[_STRING] if array.dtype.kind in "OSU" else BY_DTYPE.get(array.dtype)
    if row is None:
        raise Internal(f"Cannot answer with elements of type {array.dtype}")
    proto.dtype = row.number
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    # A shape without dimensions must still be there: absent would read the same, but the real server sets it.
    proto.tensor_shape.SetInParent()
    if row.number == _STRING:
        _write_strings(array, proto, as_content=as_content)
    elif as_content:
        proto.tensor_content = _little_endian(array)
    elif row.name in _PACKED:
        data = _little_endian(array)
        proto.MergeFromString(_varint(_PACKED[row.name] << 3 | 2) + _varint(len(data)) + data)
    else:
        getattr(proto, row.field).extend(_wire_values(array, row.dtype).tolist())


def _wire_values(array: Array, dtype: np.dtype[np.generic]) -> Array:
    """Turn elements into what their repeated field holds."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if dtype.kind == "c":
        return flat.view(flat.real.dtype)
    if dtype.itemsize == 2 and dtype.kind not in "iu":
        return flat.view(np.uint16)
    return flat


def _write_strings(array: Array, proto: "tensor_pb2.TensorProto", *, as_content: bool) -> None:
    strings = [item.encode() if isinstance(item, str) else bytes(item) for item in array.reshape(-1)]
    if as_content:
        proto.tensor_content = b"".join(_varint(len(item)) for item in strings) + b"".join(strings)
    else:
        proto.string_val.extend(strings)


def _little_endian(array: Array) -> bytes:
    if sys.byteorder == "big":
        array = array.byteswap()
    return array.tobytes()


def _varint(number: int) -> bytes:
    """Encode as protobuf does: seven bits a byte, lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
