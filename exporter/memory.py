"""What an export needs of the machine's memory, and giving back what is free: glibc keeps it, and weights are large.

Every stage of an export holds the weights a few times over for a moment. What glibc keeps of one stage does not fit the
next one's, so that without this the peaks add up; see docs/backbones.md for what an export needs.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

_COPIES = 9
"""Of the weights, when a session first optimises their graph; measured for ConvNeXt."""
_BESIDE = 600_000_000
"""Bytes of TensorFlow itself."""


def foreseen(params: int, params_to_cut: int) -> int:
    """Return the bytes that exporting takes at least; large inputs and several outputs take more.

    Args:
        params: Weights of the whole backbone, which Keras holds.
        params_to_cut: Those of them that the outputs need.
    """
    return _BESIDE + 4 * (params + _COPIES * params_to_cut)


def available() -> int | None:
    """Return the bytes that can be had before the machine begins to end processes; None where it does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    return min([1024 * int(kilobytes), *_left_to_container()])


def _left_to_container() -> list[int]:
    """Return what the control group's limit leaves; nothing where there is none."""
    try:
        most, taken = (
            Path("/sys/fs/cgroup", name).read_text(encoding="ascii") for name in ("memory.max", "memory.current")
        )
        return [int(most) - int(taken)]
    except (OSError, ValueError):  # not in one, or `max`
        return []


def give_back() -> None:
    """Collect what is unreachable and return what is free; elsewhere than with glibc, only the first."""
    gc.collect()  # TensorFlow's graphs point at themselves
    with contextlib.suppress(AttributeError, OSError):  # musl, macOS
        ctypes.CDLL(None).malloc_trim(0)
