"""Every form of an answer with one vector and every way to write its numbers: how to ask, to read and to compare."""

import base64
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import numpy as np
import ormsgpack
from numpy.typing import NDArray

Numbers = NDArray[Any]
Ranges = tuple[NDArray[np.float64], NDArray[np.float64]] | None

DTYPES = {"float32": "<f4", "float16": "<f2", "int8": "i1", "binary": "u1"}
EXACT = 1e-5
"""Relative error of two runs of one version (design, invariant 2)."""

HALF, TINY = 2.0**-11, 2.0**-25
"""What rounding to float16 costs: relative to a number, and absolute for one that is too small for all its digits."""


class Form(NamedTuple):
    """One way to ask for a vector, and how to read what comes."""

    accept: str
    encoding: str
    read: Callable[[httpx.Response], Numbers]

    def fault(self, received: Numbers, expected: NDArray[np.float64], ranges: Ranges) -> str | None:
        """Say what is wrong with the numbers received; None for nothing.

        Args:
            received: as they were written, [D] or the bytes of D bits.
            expected: the vector, [D].
            ranges: of int8, lowest and highest, each [D].
        """
        largest = np.abs(expected).max()
        if self.encoding == "binary":
            bits = np.unpackbits(received)[: expected.size].astype(bool)
            # A number that is as good as zero may have either sign.
            differ = (bits != (expected > 0)) & (np.abs(expected) > EXACT * largest)
            return f"{differ.sum()} signs differ" if differ.any() else None
        if self.encoding == "int8":
            assert ranges is not None
            low, high = ranges
            span = np.where(high > low, high - low, 1.0)
            steps = np.where(high > low, (expected - low) / span * 255 - 128, 0.0).clip(-128, 127)
            error = float(np.abs(received - steps).max())
            # Half a step is rounding; the rest is what float32 leaves open.
            return f"{error} steps apart" if not error <= 0.51 else None
        allowed = EXACT * largest + (HALF * np.abs(expected) + TINY if self.encoding == "float16" else 0.0)
        excess = float((np.abs(received - expected) / allowed).max())
        return f"error {excess:.2f} times what is allowed" if not excess <= 1 else None


def _rows(dtype: str) -> Callable[[httpx.Response], Numbers]:
    return lambda response: np.frombuffer(response.content, dtype)


def _npy(response: httpx.Response) -> Numbers:
    found: Numbers = np.load(io.BytesIO(response.content)).ravel()
    return found


def _npz(response: httpx.Response) -> Numbers:
    (found,) = np.load(io.BytesIO(response.content)).values()
    numbers: Numbers = found.ravel()
    return numbers


def _packed(dtype: str) -> Callable[[httpx.Response], Numbers]:
    return lambda response: np.frombuffer(ormsgpack.unpackb(response.content)["embeddings"][0]["vector"], dtype)


def _base64(response: httpx.Response) -> Numbers:
    return np.frombuffer(base64.b64decode(response.json()["embeddings"][0]["vector"]), "<f4")


FORMS = [
    Form("application/json", "float", lambda response: np.asarray(response.json()["embeddings"][0]["vector"])),
    Form("application/json", "base64", _base64),
    *(Form("application/octet-stream", name, _rows(dtype)) for name, dtype in DTYPES.items()),
    *(Form("application/x-npy", name, _npy) for name in DTYPES),
    *(Form("application/zip", name, _npz) for name in DTYPES),
    *(Form("application/msgpack", name, _packed(dtype)) for name, dtype in DTYPES.items()),
]
