"""TensorFlow's C API (``tensorflow/c/c_api.h``), as much of it as loading and running a SavedModel needs.

Called through ctypes, which gives up the interpreter for the length of every call. TensorFlow's own Python binding
keeps it while a graph is imported, seconds for a large one, and nobody else is answered meanwhile.

The functions are exported by the very libraries that ``import tensorflow`` has loaded; nothing is loaded twice.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from modelserver.errors import Code, ServingError

# Both must be set before TensorFlow is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Every session computes with threads of its own: warm-up runs, in large batches, would keep those of all others.
os.environ.setdefault("TF_OVERRIDE_GLOBAL_THREADPOOL", "1")


class Output(ctypes.Structure):
    """``TF_Output``: one output of one operation of a graph."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


Deallocator = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, c_void_p)
"""What ``TF_NewTensor`` is given to say that it needs the memory no more: (data, length, argument)."""

_LIBRARIES = ("libtensorflow_framework", "libtensorflow_cc")

# Name: (what it returns, what it takes). Handles are void pointers: which is which, the names say.
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "TF_NewStatus": (c_void_p, ()),
    "TF_GetCode": (c_int, (c_void_p,)),
    "TF_Message": (c_char_p, (c_void_p,)),
    "TF_DeleteStatus": (None, (c_void_p,)),
    "TF_NewTensor": (c_void_p, (c_int, POINTER(c_int64), c_int, c_void_p, c_size_t, Deallocator, c_void_p)),
    "TF_DeleteTensor": (None, (c_void_p,)),
    "TF_TensorType": (c_int, (c_void_p,)),
    "TF_NumDims": (c_int, (c_void_p,)),
    "TF_Dim": (c_int64, (c_void_p, c_int)),
    "TF_TensorByteSize": (c_size_t, (c_void_p,)),
    "TF_TensorData": (c_void_p, (c_void_p,)),
    "TF_StringInit": (None, (c_void_p,)),
    "TF_StringCopy": (None, (c_void_p, c_char_p, c_size_t)),
    "TF_StringGetDataPointer": (c_void_p, (c_void_p,)),
    "TF_StringGetSize": (c_size_t, (c_void_p,)),
    "TF_StringDealloc": (None, (c_void_p,)),
    "TF_NewGraph": (c_void_p, ()),
    "TF_DeleteGraph": (None, (c_void_p,)),
    "TF_GraphOperationByName": (c_void_p, (c_void_p, c_char_p)),
    "TF_OperationNumOutputs": (c_int, (c_void_p,)),
    "TF_NewSessionOptions": (c_void_p, ()),
    "TF_SetConfig": (None, (c_void_p, c_char_p, c_size_t, c_void_p)),
    "TF_DeleteSessionOptions": (None, (c_void_p,)),
    "TF_NewSession": (c_void_p, (c_void_p, c_void_p, c_void_p)),
    "TF_LoadSessionFromSavedModel": (
        c_void_p,
        (c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int, c_void_p, c_void_p, c_void_p),
    ),
    "TF_SessionRun": (
        None,
        (
            c_void_p, c_void_p,
            POINTER(Output), POINTER(c_void_p), c_int,
            POINTER(Output), POINTER(c_void_p), c_int,
            c_void_p, c_int, c_void_p, c_void_p,
        ),
    ),
    "TF_CloseSession": (None, (c_void_p, c_void_p)),
    "TF_DeleteSession": (None, (c_void_p, c_void_p)),
}  # fmt: skip


class Library:
    """The functions, by their names."""

    def __init__(self, directory: Path) -> None:
        libraries = [ctypes.CDLL(str(next(directory.glob(f"{name}.*")))) for name in _LIBRARIES]
        for name, (result, arguments) in _FUNCTIONS.items():
            library = next(library for library in libraries if hasattr(library, name))
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (for the type checker: the table above has the types)
        raise AttributeError(f"The table of functions does not have {name}")


@cache
def library() -> Library:
    """Import TensorFlow, and return its functions."""
    import tensorflow as tf  # noqa: PLC0415 (seconds)

    return Library(Path(tf.sysconfig.get_lib()))


@contextmanager
def checked() -> Iterator[c_void_p]:
    """Offer a ``TF_Status`` to the call in the block.

    Raises:
        ServingError: The call has left an error in it: TensorFlow's own code and text.
    """
    lib = library()
    status = lib.TF_NewStatus()
    try:
        yield status
        if code := lib.TF_GetCode(status):
            raise ServingError(Code(code), lib.TF_Message(status).decode(errors="replace") or Code(code).name)
    finally:
        lib.TF_DeleteStatus(status)
