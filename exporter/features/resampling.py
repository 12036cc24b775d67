"""Intervals of figures that were measured on photos: resamples of photos or groups, and shares."""

import math
from typing import Any

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95
_Z = 1.959964
"""Of a normal distribution, for that confidence."""

Array = np.ndarray[Any, Any]


def resamples(units: int, seed: int) -> Array:
    """Return how often each unit is drawn in each resample, uint8 [units, resamples]."""
    numbers = np.random.default_rng(seed)
    drawn = np.empty((units, RESAMPLES), np.uint8)
    for index in range(RESAMPLES):
        drawn[:, index] = np.bincount(numbers.integers(0, units, units), minlength=units)
    return drawn


def share_interval(share: float, units: int) -> tuple[float, float]:
    """Return the 95 % interval of a share among so many independent units: Wilson, 1927; right at 0 and 1 also."""
    if not units:
        return 0.0, 1.0
    spread = _Z**2 / units
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / units + spread / (4 * units))
    return max(0.0, middle - half), min(1.0, middle + half)
