"""Compare candidates honestly: intervals, ties, the price of choosing among many, and a decision.

Photos, or groups of photos, are drawn with replacement. Measures of neighbours are not means of independent numbers:
a photo is a query, and a neighbour of others. `exporter.sweep.measures` therefore draws both, and intervals come from
its errors; docs/decisions/0076 has their measured coverage.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.features.resampling import CONFIDENCE

Array = np.ndarray[Any, Any]
Interval = tuple[float, float]

FEW = 10
"""Photos or groups below which resamples of them say nothing."""
SPLITS = 200


@dataclass(frozen=True, slots=True)
class Comparison:
    """Candidates beside the default and the best.

    Attributes:
        best: Index of the candidate with the highest estimate.
        intervals: 95 % interval of each estimate.
        against_default: Paired 95 % interval of each candidate minus the default.
        against_best: Paired 95 % interval of each candidate minus the best.
        better: Whether each candidate is better than the default beyond chance, all candidates counted: the interval
            for all differences together lies above 0.
        tied: Whether the interval against the best holds 0.
        informative: Whether any candidate is above chance, all candidates counted.
    """

    best: int
    intervals: list[Interval]
    against_default: list[Interval]
    against_best: list[Interval]
    better: list[bool]
    tied: list[bool]
    informative: bool


def compare(
    estimates: Sequence[float], errors: Sequence[Array], default: int, chance: float, costs: Sequence[Any]
) -> Comparison:
    """Compare candidates.

    Args:
        estimates: Of each candidate.
        errors: Of each estimate in each resample.
        default: Index of the default.
        chance: What vectors without information reach.
        costs: Of each candidate; the cheapest of equally good ones is the best.
    """
    numbers = np.asarray(estimates, np.float64)
    best = min(range(len(numbers)), key=lambda index: (-numbers[index], costs[index]))
    own = np.stack(errors, axis=1)
    from_default = own - own[:, [default]]
    from_best = own - own[:, [best]]
    better = _above(numbers - numbers[default], from_default)
    against_best = _intervals(numbers - numbers[best], from_best, -1.0)
    return Comparison(
        best,
        _intervals(numbers, own, 0.0),
        _intervals(numbers - numbers[default], from_default, -1.0),
        against_best,
        better,
        [index == best or low <= 0 <= high for index, (low, high) in enumerate(against_best)],
        any(_above(numbers - chance, own)),
    )


def _intervals(estimates: Array, errors: Array, least: float) -> list[Interval]:
    """Return estimates with their errors, within what a measure can be: 0 to 1, and -1 to 1 for a difference."""
    quantiles = np.quantile(errors, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    low, high = np.clip(np.round(estimates + quantiles, 9) + 0.0, least, 1.0)  # what is below is noise of float32
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _above(differences: Array, errors: Array) -> list[bool]:
    """Whether each difference is above 0, with at most 5 % chance that any one is called so wrongly.

    The largest of all standardised errors of a resample decides: Westfall and Young, "Resampling-Based Multiple
    Testing", 1993.
    """
    spread = errors.std(axis=0)
    moving = spread > 1e-9
    if not moving.any():
        return [bool(difference > 0) for difference in differences]
    largest = (errors[:, moving] / spread[moving]).max(axis=1)
    critical = float(np.quantile(largest, CONFIDENCE))
    return [bool(one > critical * error and one > 1e-9) for one, error in zip(differences, spread, strict=True)]


@dataclass(frozen=True, slots=True)
class Optimism:
    """What choosing the best of many adds to its figure.

    Attributes:
        apparent: Gain of the best over the default, on the photos that it was chosen on.
        held_out: Mean gain of the candidate that one half of the photos chooses, on the other half.
        selection_bias: Mean of what the chosen one reaches on its own half minus on the other.
        share: Share of halves in which the chosen one is better than the default on the other half.
    """

    apparent: float
    held_out: float
    selection_bias: float
    share: float


def optimism(
    measures: Sequence[Callable[[Array], float]], estimates: Sequence[float], default: int, units: int, seed: int
) -> Optimism | None:
    """Choose on one half of the units and measure on the other, many times; None with too few units for halves.

    Args:
        measures: Compute each candidate's measure on some units.
        estimates: On all units.
        default: Index of the default.
        units: Number of units.
        seed: Of the halves.
    """
    numbers = np.random.default_rng(seed)
    gains, biases = [], []
    for _ in range(SPLITS):
        chosen = np.zeros(units, bool)
        chosen[numbers.permutation(units)[: units // 2]] = True
        here = np.array([measure(chosen) for measure in measures])
        if np.isnan(here).any():
            continue
        best = int(here.argmax())
        there, usual = measures[best](~chosen), measures[default](~chosen)
        if not math.isnan(there):
            gains.append(there - usual)
            biases.append(here[best] - there)
    if not gains:
        return None
    apparent = max(estimates) - estimates[default]
    share = float(np.mean([gain > 0 for gain in gains]))
    return Optimism(float(apparent), float(np.mean(gains)), float(np.mean(biases)), share)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to deploy.

    Attributes:
        recommended: Index of the candidate.
        verdict: `default` (it stands), `better` (than it), or `cheaper` (than it, and tied with the best).
        why: One sentence.
    """

    recommended: int
    verdict: str
    why: str


def decide(found: Comparison, default: int, costs: Sequence[Any], units: int) -> Decision:
    """Recommend the cheapest of the candidates that are tied with the best, or let the default stand.

    Args:
        found: The comparison.
        default: Index of the default.
        costs: Of each candidate, comparable.
        units: Number of photos or groups.
    """
    if units < FEW or not found.informative:
        few = f"fewer than {FEW} photos, or groups of them, cannot tell layers apart."
        chance = "no candidate is better than chance on these photos and labels."
        return Decision(default, "default", few if units < FEW else chance)
    tied = [index for index, one in enumerate(found.tied) if one]
    # Of equally expensive ones, such as the poolings of a layer, the default, or else the one closest to the best.
    cheapest = min(tied, key=lambda index: (costs[index], index != default, -sum(found.against_best[index])))
    if cheapest == default:
        alone = "it is the best, and nothing is tied with it."
        among = "it is tied with the best, and nothing that is tied is cheaper."
        return Decision(default, "default", among if len(tied) > 1 else alone)
    if found.better[cheapest]:
        return Decision(
            cheapest, "better", "it is better than the default beyond chance, and nothing cheaper is as good."
        )
    if found.tied[default]:
        return Decision(
            cheapest, "cheaper", "no layer is better than the default beyond chance; this one is tied and cheaper."
        )
    if any(found.better[index] for index in tied):
        better = min((index for index in tied if found.better[index]), key=lambda index: costs[index])
        return Decision(better, "better", "of those that are better than the default beyond chance it is the cheapest.")
    return Decision(default, "default", "no candidate is better than it beyond chance, all of them counted.")
