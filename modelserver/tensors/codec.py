"""Convert between ``TensorProto`` and numpy arrays.

Requests may use any of TensorFlow's three encodings. ``tensor_content`` wins when present and must have exactly the
right length. Otherwise the element type's own repeated field counts: no value means zeros, fewer values than elements
repeat the last one (warm-up records send a batch of blank images in a few bytes), surplus values are ignored. A missing
shape, or one of unknown rank, means a scalar.

Answers use the repeated field, or ``tensor_content`` with ``--enable_serialization_as_tensor_content``.
"""

import math
import sys
from itertools import accumulate, pairwise
from typing import Any, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt

from microtome.protobuf import read_varint, varint
from microtome.tfserving.v1 import serving_pb2 as pb
from modelserver.errors import Internal, InvalidArgument, ResourceExhausted

Array = npt.NDArray[Any]

REQUEST_BYTES = 128 << 20
"""Bytes of a request's tensors once they are decoded, by default: 32 images of 600x600 need 35 MB. A tensor takes more
bytes than its message where few values are to be repeated."""

MOST_DIMENSIONS = 254
"""TensorFlow's limit."""

STRING_BYTES = 96
"""Of each string beside its text: TensorFlow's object, Python's, and the reference in the array."""

_INT_BYTES = 4

STRING = pb.DT_STRING

FIELDS: dict[int, str] = {
    pb.DT_FLOAT: "float_val",
    pb.DT_DOUBLE: "double_val",
    pb.DT_INT32: "int_val",
    pb.DT_UINT8: "int_val",
    pb.DT_INT16: "int_val",
    pb.DT_INT8: "int_val",
    STRING: "string_val",
    pb.DT_COMPLEX64: "scomplex_val",
    pb.DT_INT64: "int64_val",
    pb.DT_BOOL: "bool_val",
    pb.DT_BFLOAT16: "half_val",
    pb.DT_UINT16: "int_val",
    pb.DT_COMPLEX128: "dcomplex_val",
    pb.DT_HALF: "half_val",
    pb.DT_UINT32: "uint32_val",
    pb.DT_UINT64: "uint64_val",
}
"""By the number of an element type, the repeated field of ``TensorProto`` that holds its values. Sixteen-bit floats
travel as the integer of the same bits, complex numbers as pairs."""

DTYPES: dict[int, np.dtype[Any]] = {
    pb.DT_FLOAT: np.dtype(np.float32),
    pb.DT_DOUBLE: np.dtype(np.float64),
    pb.DT_INT32: np.dtype(np.int32),
    pb.DT_UINT8: np.dtype(np.uint8),
    pb.DT_INT16: np.dtype(np.int16),
    pb.DT_INT8: np.dtype(np.int8),
    STRING: np.dtype(object),
    pb.DT_COMPLEX64: np.dtype(np.complex64),
    pb.DT_INT64: np.dtype(np.int64),
    pb.DT_BOOL: np.dtype(np.bool_),
    pb.DT_BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    pb.DT_UINT16: np.dtype(np.uint16),
    pb.DT_COMPLEX128: np.dtype(np.complex128),
    pb.DT_HALF: np.dtype(np.float16),
    pb.DT_UINT32: np.dtype(np.uint32),
    pb.DT_UINT64: np.dtype(np.uint64),
}
"""The numpy type of each element type; object arrays hold strings as ``bytes``."""

_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
_SIXTEEN_BITS = {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)}


def type_name(number: int) -> str:
    """Return an element type's name as TensorFlow's messages write it; unknown types by their number."""
    return (
        pb.DataType.Name(cast("pb.DataType", number)).removeprefix("DT_").lower()
        if number in FIELDS
        else f"dtype {number}"
    )


def decoded_bytes(proto: pb.TensorProto, alias: str, most: int = REQUEST_BYTES) -> int:
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


def decode(proto: pb.TensorProto, alias: str, most: int = REQUEST_BYTES) -> Array:
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
    count, content = math.prod(shape), proto.tensor_content
    try:
        if content and proto.dtype != STRING:
            if len(content) != count * dtype.itemsize:
                raise ValueError  # noqa: TRY301, with the strings' errors
            return np.frombuffer(content, dtype).reshape(shape)
        values = _strings(content, count) if content and count else _sent(proto)
    except ValueError:
        raise InvalidArgument(f"tensor parsing error: {alias}") from None
    return _repeated(values, count, dtype).reshape(shape)


def _sent(proto: pb.TensorProto) -> Array:
    """Return the values of a tensor's repeated field, as many as there are."""
    dtype, entries = DTYPES[proto.dtype], getattr(proto, FIELDS[proto.dtype])
    if proto.dtype == STRING:
        return np.fromiter(entries, object, len(entries))
    values = np.array(entries, _entries_type(dtype))
    if dtype.kind == "c":
        return values[: len(values) // 2 * 2].view(dtype)
    return values.astype(np.uint16).view(dtype) if dtype in _SIXTEEN_BITS else values.astype(dtype)


def _entries_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the numpy type of the entries that hold values of an element type."""
    if dtype.kind == "c":
        return np.zeros((), dtype).real.dtype
    return (
        np.dtype(np.int32) if dtype in _SIXTEEN_BITS or (dtype.itemsize < _INT_BYTES and dtype.kind != "b") else dtype
    )


def _repeated(values: Array, count: int, dtype: np.dtype[Any]) -> Array:
    """Return so many values: the surplus left out, the last one repeated, or zeros where there is none."""
    if len(values) >= count:
        return values[:count]
    filled = np.empty(count, dtype)
    filled[: len(values)] = values
    # A bytes object alone would be taken for a list of numbers.
    filled[len(values) :] = values[-1:] if len(values) else np.array([b"" if dtype.kind == "O" else 0], dtype)
    return filled


def _strings(content: bytes, count: int) -> Array:
    """Read the raw bytes of strings: all lengths, then all texts.

    Raises:
        ValueError: They are not that many strings.
    """
    sizes, at = [], 0
    for _ in range(count):
        size, at = read_varint(content, at)
        sizes.append(size)
    if sum(sizes) != len(content) - at:
        raise ValueError("The texts are longer or shorter than they state.")
    ends = [at, *(at + end for end in accumulate(sizes))]
    return np.fromiter((content[begin:end] for begin, end in pairwise(ends)), object, count)


def encode(array: Array, *, as_content: bool) -> pb.TensorProto:
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
    dims = [pb.TensorShapeProto.Dim(size=size) for size in array.shape]
    proto = pb.TensorProto(dtype=cast("pb.DataType", number), tensor_shape=pb.TensorShapeProto(dim=dims))
    if as_content and number == STRING:
        strings = array.reshape(-1).tolist()
        proto.tensor_content = b"".join([*(varint(len(string)) for string in strings), *strings])
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
