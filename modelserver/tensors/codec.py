"""Convert between ``TensorProto`` and numpy arrays.

Requests may use any of TensorFlow's three encodings. ``tensor_content`` wins when present and must have exactly the
right length. Otherwise the element type's own repeated field counts: no value means zeros, fewer values than elements
repeat the last one (warm-up records send a batch of blank images in a few bytes), surplus values are ignored. A missing
shape, or one of unknown rank, means a scalar. TensorFlow's own kernel reads every encoding but raw numbers.

Answers use the repeated field, or ``tensor_content`` with ``--enable_serialization_as_tensor_content``.
"""

import math
import sys
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2

from modelserver.errors import Internal, InvalidArgument, ResourceExhausted

Array = npt.NDArray[Any]

REQUEST_BYTES = 128 << 20
"""Bytes of a request's tensors once they are decoded, by default: 32 images of 600x600 need 35 MB. A tensor takes more
bytes than its message where few values are to be repeated."""

MOST_DIMENSIONS = 254
"""TensorFlow's limit."""

STRING_BYTES = 96
"""Of each string beside its text: TensorFlow's object, Python's, and the reference in the array."""

STRING = types_pb2.DT_STRING

FIELDS = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_UINT8: "int_val",
    types_pb2.DT_INT16: "int_val",
    types_pb2.DT_INT8: "int_val",
    STRING: "string_val",
    types_pb2.DT_COMPLEX64: "scomplex_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_BFLOAT16: "half_val",
    types_pb2.DT_UINT16: "int_val",
    types_pb2.DT_COMPLEX128: "dcomplex_val",
    types_pb2.DT_HALF: "half_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
}
"""By the number of an element type, the repeated field of ``TensorProto`` that holds its values. Sixteen-bit floats
travel as the integer of the same bits, complex numbers as pairs."""

DTYPES = {number: np.dtype(tf.as_dtype(number).as_numpy_dtype) for number in FIELDS}
"""The numpy type of each element type; object arrays hold strings as ``bytes``."""

_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
_SIXTEEN_BITS = {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)}


def type_name(number: int) -> str:
    """Return an element type's name as TensorFlow's messages write it; unknown types by their number."""
    return types_pb2.DataType.Name(number).removeprefix("DT_").lower() if number in FIELDS else f"dtype {number}"


def decoded_bytes(proto: tensor_pb2.TensorProto, alias: str, most: int = REQUEST_BYTES) -> int:
    """Return the bytes that a tensor takes once it is decoded, before anything of that size is made.

    Args:
        proto: The tensor.
        alias: Its name in the request, for the message.
        most: The bytes that it may take.

    Raises:
        InvalidArgument: A type or a shape that no tensor has.
        ResourceExhausted: It takes more than it may.
    """
    dtype = DTYPES.get(proto.dtype)
    dims = () if proto.tensor_shape.unknown_rank else proto.tensor_shape.dim
    if dtype is None or len(dims) > MOST_DIMENSIONS or any(dim.size < 0 for dim in dims):
        raise InvalidArgument(f"tensor parsing error: {alias}")
    # Zeros do not count: no other size may be beyond what numpy can address.
    count = math.prod(max(dim.size, 1) for dim in dims)
    size: int = count * dtype.itemsize
    if proto.dtype == STRING:
        # The last string is repeated, with its text.
        longest = len(proto.string_val[-1]) if proto.string_val else 0
        text = sum(map(len, proto.string_val)) + len(proto.tensor_content)
        size = count * STRING_BYTES + text + max(count - len(proto.string_val), 0) * longest
    if size > most:
        shape = ",".join(str(dim.size) for dim in dims)
        raise ResourceExhausted(
            f"OOM when allocating tensor with shape[{shape}]: input {alias} may take {most} bytes, and takes {size}"
        )
    return size


def decode(proto: tensor_pb2.TensorProto, alias: str, most: int = REQUEST_BYTES) -> Array:
    """Read one tensor.

    Args:
        proto: The tensor.
        alias: Its name in the request, for the message.
        most: The bytes that it may take once it is decoded.

    Returns:
        An array of the proto's shape and element type; it may be read-only. Strings are an object array of bytes.

    Raises:
        InvalidArgument: The proto contradicts itself.
        ResourceExhausted: It takes more bytes than it may.
    """
    decoded_bytes(proto, alias, most)
    dtype = DTYPES[proto.dtype]
    shape = () if proto.tensor_shape.unknown_rank else tuple(dim.size for dim in proto.tensor_shape.dim)
    content = proto.tensor_content
    if content and proto.dtype != STRING:
        if len(content) != math.prod(shape) * dtype.itemsize:
            raise InvalidArgument(f"tensor parsing error: {alias}")
        return np.frombuffer(content, dtype).reshape(shape)
    try:
        parsed = tf.io.parse_tensor(proto.SerializeToString(), proto.dtype)
    except tf.errors.OpError as error:
        raise InvalidArgument(f"tensor parsing error: {alias}") from error
    return np.asarray(parsed.numpy(), dtype).reshape(shape)


def encode(array: Array, *, as_content: bool) -> tensor_pb2.TensorProto:
    """Write one tensor.

    Args:
        array: Values of any type in ``DTYPES``; object arrays hold ``bytes``.
        as_content: Whether to use ``tensor_content``.

    Raises:
        Internal: TensorFlow Serving cannot answer with elements of this type.
    """
    number = _NUMBERS.get(array.dtype)
    if number is None:
        raise Internal(f"Cannot answer with elements of type {array.dtype}")
    dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in array.shape]
    proto = tensor_pb2.TensorProto(dtype=number, tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=dims))
    if as_content and number == STRING:
        strings = array.reshape(-1).tolist()
        proto.tensor_content = b"".join([*(_varint(len(string)) for string in strings), *strings])
    elif as_content:
        proto.tensor_content = (array.byteswap() if sys.byteorder == "big" else array).tobytes()
    else:
        getattr(proto, FIELDS[number]).extend(_values(array).tolist())
    return proto


def _values(array: Array) -> Array:
    """Return the entries of an array's repeated field."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if array.dtype.kind == "c":
        return flat.view(flat.real.dtype)
    return flat.view(np.uint16) if array.dtype in _SIXTEEN_BITS else flat


def _varint(number: int) -> bytes:
    """Write a number with seven bits a byte, lowest first, as protobuf and TensorFlow's string lists do."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
