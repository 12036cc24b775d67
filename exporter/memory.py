"""Give freed memory back to the operating system: glibc keeps it for later, and weights are large.

Every stage of an export holds the weights a few times over for a moment. What glibc keeps of one stage does not fit the
next one's, so that without this the peaks add up; see docs/backbones.md for what an export needs.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc


def give_back() -> None:
    """Collect what is unreachable and return what is free; elsewhere than with glibc, only the first."""
    gc.collect()  # TensorFlow's graphs point at themselves
    with contextlib.suppress(AttributeError, OSError):  # musl, macOS
        ctypes.CDLL(None).malloc_trim(0)
