"""Between numpy and ``TF_Tensor``, with who owns which memory.

* What goes in is lent: TensorFlow reads the array's own memory, and the array lives until TensorFlow says that it has
  done with it, which may be after the run (an output can be the input itself). Only memory that does not begin where
  TensorFlow needs it to (at a multiple of 64 bytes) is copied, by TensorFlow: ``aligned`` gives memory that does.
* What comes out is copied, so that no array outlives the tensor it came from.
"""

import ctypes
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modelserver.c_api import Deallocator, library
from modelserver.errors import Internal
from modelserver.tensor_types import BY_DTYPE, TYPES

Array = npt.NDArray[Any]

_STRING = 7
_STRING_BYTES = 24
"""The size of a ``TF_TString`` (tensorflow/core/platform/ctstring_internal.h)."""

_ALIGNMENT = 64

_lent: dict[int, Array] = {}
_numbers = itertools.count(1)


def aligned(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """Return an uninitialised array that TensorFlow reads in place."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(kind).reshape(shape)


def lend(array: Array) -> int:
    """Make a tensor of an array; the caller deletes it with ``TF_DeleteTensor``.

    Args:
        array: Values of any type in ``tensor_types``; object arrays hold ``bytes``. Nobody may write to it afterwards.

    Raises:
        Internal: TensorFlow has no such element type.
    """
    row = TYPES[_STRING] if array.dtype.kind == "O" else BY_DTYPE.get(array.dtype)
    if row is None:
        raise Internal(f"Cannot feed elements of type {array.dtype}")
    if row.number == _STRING:
        memory, give_back = _strings(array), _STRINGS_DONE
    else:
        memory, give_back = np.ascontiguousarray(array), _DONE
    number = next(_numbers)
    _lent[number] = memory
    dims = (ctypes.c_int64 * array.ndim)(*array.shape)
    tensor: int = library().TF_NewTensor(
        row.number, dims, array.ndim, memory.ctypes.data, memory.nbytes, give_back, number
    )
    return tensor


def read(tensor: int) -> Array:
    """Copy what a tensor holds; strings become an object array of bytes.

    Raises:
        Internal: It has an element type that no answer can carry.
    """
    lib = library()
    row = TYPES.get(lib.TF_TensorType(tensor))
    if row is None:
        raise Internal(f"Cannot answer with elements of TensorFlow's type {lib.TF_TensorType(tensor)}")
    shape = [lib.TF_Dim(tensor, axis) for axis in range(lib.TF_NumDims(tensor))]
    count, data = math.prod(shape), lib.TF_TensorData(tensor)
    array = np.empty(count, row.dtype)
    if row.number == _STRING:
        array[:] = [_string_at(data + index * _STRING_BYTES) for index in range(count)]
    elif count:
        ctypes.memmove(array.ctypes.data, data, array.nbytes)
    return array.reshape(shape)


def _strings(array: Array) -> Array:
    """Lay out ``TF_TString`` values, each with memory of its own that ``_give_back_strings`` frees."""
    lib, memory = library(), aligned((array.size, _STRING_BYTES), np.uint8)
    for index, value in enumerate(array.reshape(-1)):
        at = memory.ctypes.data + index * _STRING_BYTES
        lib.TF_StringInit(at)
        lib.TF_StringCopy(at, bytes(value), len(value))
    return memory


def _string_at(address: int) -> bytes:
    lib = library()
    return ctypes.string_at(lib.TF_StringGetDataPointer(address), lib.TF_StringGetSize(address))


def _give_back(_data: int, _length: int, number: int) -> None:
    """Let go of an array; TensorFlow calls it, from any thread."""
    _lent.pop(number, None)


def _give_back_strings(data: int, length: int, number: int) -> None:
    for at in range(data, data + length, _STRING_BYTES):
        library().TF_StringDealloc(at)
    _lent.pop(number, None)


# Kept here for as long as the process lives: TensorFlow has only their addresses.
_DONE, _STRINGS_DONE = Deallocator(_give_back), Deallocator(_give_back_strings)
