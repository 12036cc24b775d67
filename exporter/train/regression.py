"""Fit heads that say numbers, ridge regressions or a small network, and measure them on held-out photos."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from exporter.features.resampling import CONFIDENCE, resamples
from exporter.head.dense import DenseHead

NumberKind = Literal["ridge", "mlp"]
STRENGTHS = tuple(10.0**power for power in range(-4, 4))
"""Of regularisation, by the mean variance of the vectors' axes."""
_FOLDS = 5
_SHARES = (0.125, 0.25, 0.5, 1.0)
_LEAST_CURVE = 8
"""Photos below which no point of a learning curve is worth drawing."""
_COLUMNS = 4096
_FLOOR = 0.1
"""Least deviation of a dimension, by that of all: nearly dead ones would count too much otherwise."""
_MLP_PENALTY, _MLP_EPOCHS = 1.0, 200

Array = np.ndarray[Any, Any]
Interval = tuple[float, float]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval, by resamples of independent units; not finite where it means nothing."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Against:
    """What another answer reaches on the same photos, and by how much the head is better, with its paired interval."""

    value: float
    better: Estimate


@dataclass(frozen=True, slots=True)
class OfColumn:
    """What is reached for one number: mean absolute error, R², and the error of always saying the mean."""

    name: str
    unit: str
    error: Estimate
    r2: Estimate
    mean: Against
    average: Against | None


@dataclass(frozen=True, slots=True)
class OfBox:
    """What is reached for boxes: the mean intersection over union, and that of always saying the mean box."""

    overlap: Estimate
    mean: Against
    average: Against | None


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Standardised vectors, in their span: as many dimensions as there are photos, or fewer.

    A ridge regression is the same there, and a head of flattened maps takes no matrix of their length squared.

    Attributes:
        vectors: float32 [N, D], as they are.
        mean: float64 [D].
        deviation: float64 [D].
        inside: float64 [N, R], centred.
        back: From the span to the vectors' dimensions by `back.T @ standardised`, [N, R]; None where R is D.
    """

    vectors: Array
    mean: Array
    deviation: Array
    inside: Array
    back: Array | None

    @classmethod
    def of(cls, vectors: Array) -> "Span":
        """Return the span of vectors, float32 [N, D]."""
        mean = vectors.mean(axis=0, dtype=np.float64)
        deviation = vectors.std(axis=0, dtype=np.float64)
        whole = float(np.sqrt((deviation**2).mean()))
        deviation = np.maximum(deviation, _FLOOR * whole if whole else 1.0)
        plain = cls(vectors, mean, deviation, vectors[:0], None)
        count, length = vectors.shape
        if length <= count:
            return cls(vectors, mean, deviation, plain._standard(slice(None)), None)
        gram = np.zeros((count, count))
        for columns in plain._slices():
            some = plain._standard(columns)
            gram += some @ some.T
        sizes, axes = np.linalg.eigh(gram)
        kept = sizes > sizes[-1] * 1e-10
        roots = np.sqrt(sizes[kept])
        return cls(vectors, mean, deviation, axes[:, kept] * roots, axes[:, kept] / roots)

    def layer(self, kernel: Array, bias: Array) -> tuple[Array, Array]:
        """Return a layer on vectors as they are, float32, from one in the span, [R, h] and [h]."""
        if self.back is None:
            wide = kernel
        else:
            shares = self.back @ kernel
            wide = np.concatenate([self._standard(columns).T @ shares for columns in self._slices()])
        folded = wide / self.deviation[:, None]
        return folded.astype(np.float32), (bias - self.mean @ folded).astype(np.float32)

    def _standard(self, columns: slice) -> Array:
        return np.asarray((self.vectors[:, columns] - self.mean[columns]) / self.deviation[columns])

    def _slices(self) -> list[slice]:
        return [slice(start, start + _COLUMNS) for start in range(0, self.vectors.shape[1], _COLUMNS)]


def unit_folds(units: Array, count: int, seed: int) -> list[tuple[Array, Array]]:
    """Divide photos into folds of whole units: indices of training and test photos of each."""
    there, place = np.unique(units, return_inverse=True)
    fold_of = np.empty(len(there), np.int64)
    fold_of[np.random.default_rng(seed).permutation(len(there))] = np.arange(len(there)) % count
    found = [(np.flatnonzero(fold_of[place] != fold), np.flatnonzero(fold_of[place] == fold)) for fold in range(count)]
    return [(train, test) for train, test in found if len(train) > 1 and len(test)]


def strengths_for(span: Span, values: Array, units: Array, seed: int) -> tuple[float, ...]:
    """Return the strength of regularisation that cross-validation prefers for each column.

    Args:
        span: Of the vectors of N photos.
        values: float64 [N, columns].
        units: What must not be in training and test at once, int [N].
        seed: Of the folds.
    """
    wrong = np.zeros((len(STRENGTHS), values.shape[1]))
    for train, test in unit_folds(units, _FOLDS, seed):
        solve = _solver(span.inside[train], values[train])
        for index, strength in enumerate(STRENGTHS):
            kernel, bias = solve(np.full(values.shape[1], strength))
            wrong[index] += ((span.inside[test] @ kernel + bias - values[test]) ** 2).sum(axis=0)
    return tuple(STRENGTHS[index] for index in wrong.argmin(axis=0))


def fit_ridge(span: Span, values: Array, strengths: Sequence[float]) -> DenseHead:
    """Fit a ridge regression for each column, with its strength."""
    return DenseHead((span.layer(*_solver(span.inside, values)(np.asarray(strengths))),))


def fit_network(span: Span, values: Array, hidden: Sequence[int], seed: int) -> DenseHead:
    """Fit a small network for all columns."""
    from sklearn.neural_network import MLPRegressor  # noqa: PLC0415 -- an extra

    mean, deviation = values.mean(axis=0), np.maximum(values.std(axis=0), np.finfo(np.float64).tiny)
    size = float(np.sqrt((span.inside**2).mean())) or 1.0
    # Weights decay instead of stopping early: a fifth of few photos is too small to stop by.
    model = MLPRegressor(
        hidden_layer_sizes=tuple(hidden),
        alpha=_MLP_PENALTY,
        batch_size=min(32, len(values)),
        max_iter=_MLP_EPOCHS,
        random_state=seed,
    ).fit((span.inside / size).astype(np.float32), ((values - mean) / deviation).squeeze())
    layers = [(np.asarray(kernel, np.float64), np.asarray(bias, np.float64))
              for kernel, bias in zip(model.coefs_, model.intercepts_, strict=True)]  # fmt: skip
    kernel, bias = layers[-1]
    layers[-1] = kernel * deviation, bias * deviation + mean
    first = span.layer(layers[0][0] / size, layers[0][1])
    return DenseHead((first, *((one.astype(np.float32), two.astype(np.float32)) for one, two in layers[1:])))


def _solver(known: Array, values: Array) -> Callable[[Array], tuple[Array, Array]]:
    """Return a function from the strength of each column to kernel [R, columns] and bias [columns]."""
    middle, mean = known.mean(axis=0), values.mean(axis=0)
    centred = known - middle
    sizes, axes = np.linalg.eigh(centred.T @ centred)
    sizes = np.maximum(sizes, 0)
    usual = float(sizes.sum()) / min(centred.shape) or 1.0
    found = axes.T @ (centred.T @ (values - mean))

    def solve(strengths: Array) -> tuple[Array, Array]:
        kernel = axes @ (found / (sizes[:, None] + strengths * usual))
        return kernel, mean - middle @ kernel

    return solve


def overlaps(said: Array, wanted: Array) -> Array:
    """Return the intersection over union of boxes: float64 [N], from x, y, width, height [N, 4] of both."""
    sizes = [np.maximum(one[:, 2:], 0) for one in (said, wanted)]
    low = np.maximum(said[:, :2], wanted[:, :2])
    high = np.minimum(said[:, :2] + sizes[0], wanted[:, :2] + sizes[1])
    both = np.maximum(high - low, 0).prod(axis=1)
    return np.asarray(both / np.maximum(sizes[0].prod(axis=1) + sizes[1].prod(axis=1) - both, 1e-12))


class Measuring:
    """Measures answers on the same held-out photos, with intervals by their units.

    Args:
        values: What is true, float64 [N, columns].
        units: int [N].
        mean: Of each column, of the training photos.
        seed: Of the resamples.
    """

    def __init__(self, values: Array, units: Array, mean: Array, seed: int) -> None:
        self.values, self.mean = values, np.broadcast_to(mean, values.shape)
        _, place = np.unique(units, return_inverse=True)
        self._drawn = resamples(int(place.max()) + 1, seed)[place].astype(np.float64)

    def column(self, said: Array, average: Array | None, place: int, name: str, unit: str) -> OfColumn:
        """Measure one column of answers, float64 [N, columns], and of those of a head on average pooling."""
        wrong, plain, other = (
            None if one is None else np.abs(one[:, place] - self.values[:, place]) for one in (said, self.mean, average)
        )
        assert wrong is not None  # noqa: S101 -- for mypy
        assert plain is not None  # noqa: S101 -- for mypy
        beside = None if other is None else self._against(other, other - wrong)
        r2 = self._r2(said[:, place], self.values[:, place])
        return OfColumn(name, unit, self._mean_of(wrong), r2, self._against(plain, plain - wrong), beside)

    def box(self, said: Array, average: Array | None, places: Box) -> OfBox:
        """Measure boxes."""
        wanted, at = self.values[:, places], list(places)
        own, plain = overlaps(said[:, at], wanted), overlaps(self.mean[:, at], wanted)
        other = None if average is None else overlaps(average[:, at], wanted)
        beside = None if other is None else self._against(other, own - other)
        return OfBox(self._mean_of(own), self._against(plain, own - plain), beside)

    def _against(self, other: Array, better: Array) -> Against:
        return Against(float(other.mean()), self._mean_of(better))

    def _mean_of(self, found: Array) -> Estimate:
        return self._estimate(float(found.mean()), (found @ self._drawn) / np.maximum(self._drawn.sum(axis=0), 1))

    def _r2(self, said: Array, wanted: Array) -> Estimate:
        def of(weights: Array) -> Array:
            mean = (wanted @ weights) / weights.sum(axis=0)
            left = ((said - wanted) ** 2) @ weights
            whole = (wanted**2) @ weights - mean**2 * weights.sum(axis=0)
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.asarray(1 - left / np.where(whole > 1e-12 * ((wanted**2) @ weights), whole, np.nan))

        return self._estimate(float(of(np.ones((len(said), 1)))[0]), of(self._drawn))

    @staticmethod
    def _estimate(value: float, drawn: Array) -> Estimate:
        drawn = drawn[np.isfinite(drawn)]
        if not len(drawn):
            return Estimate(value, (np.nan, np.nan))
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Estimate(value, (float(low), float(high)))


def curve_rows(units: Array, seed: int) -> list[Array]:
    """Return growing parts of training photos, whole units, for a learning curve; the last has all of them."""
    order = np.random.default_rng(seed).permutation(np.unique(units))
    parts = [np.flatnonzero(np.isin(units, order[: max(1, round(share * len(order)))])) for share in _SHARES]
    return [rows for rows in parts if len(rows) >= min(_LEAST_CURVE, len(units))]
