"""Fit heads on frozen features: logistic regression, nearest class mean, or a small network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from exporter.errors import ImpossibleOption
from exporter.features.logistic import axes_of, best_strength, fitted, folds
from exporter.head.dense import DenseHead

Kind = Literal["logistic", "mean", "mlp"]
KINDS: tuple[Kind, ...] = ("logistic", "mean", "mlp")

FEW = 5
"""Photos of a class, in the median, below which the nearest class mean is the default."""
_FOLDS, _INNER = 5, 3
_MLP_PENALTY = 1.0
_MLP_EPOCHS = 100
_SMALLEST_DEVIATION = 1e-6

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Method:
    """How a head is fitted.

    Attributes:
        kind: One of `KINDS`.
        hidden: Sizes of hidden layers, for `mlp`.
        balanced: Whether every class weighs the same, however many photos it has.
        seed: Of folds and of initial weights.
    """

    kind: Kind
    hidden: tuple[int, ...] = ()
    balanced: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Examples:
    """Vectors to learn from.

    Attributes:
        vectors: float32 [N, D], of length one.
        labels: int [N].
        units: What must not be in training and test at once, int [N].
        weights: float [N]; an altered copy of a photo shares its weight with it.
        whole: Whether each is a photo as it is, bool [N]; altered copies are never tested on.
        classes: Number of classes.
    """

    vectors: Array
    labels: Array
    units: Array
    weights: Array
    whole: Array
    classes: int

    def part(self, chosen: Array) -> "Examples":
        """Return some of them, by index or as bool [N]."""
        return Examples(
            self.vectors[chosen],
            self.labels[chosen],
            self.units[chosen],
            self.weights[chosen],
            self.whole[chosen],
            self.classes,
        )


def usual_kind(labels: Array) -> Kind:
    """Return the method for so many photos of each class."""
    sizes = np.bincount(labels)
    return "mean" if float(np.median(sizes[sizes > 0])) < FEW else "logistic"


def fold_count(labels: Array, units: Array) -> int:
    """Return a number of folds that so few photos can be divided into.

    Raises:
        ImpossibleOption: They cannot be divided at all.
    """
    most = min(_FOLDS, int(np.bincount(labels).max()), len(np.unique(units)))
    if most < 2:
        raise ImpossibleOption(
            "Expected classes with two photos or more, of two groups or more, to train on. Received: one. Add photos, "
            "or group them otherwise."
        )
    return most


def strength_for(examples: Examples, seed: int, count: int = _INNER) -> float:
    """Return the strength of regularisation that cross-validation on these examples prefers."""
    whole = examples.part(examples.whole)
    known, _ = _standard(whole)
    splits = _sound(folds(count, whole.labels, whole.units, seed), whole.labels)
    return best_strength(known, whole.labels, splits)


def fit(examples: Examples, method: Method, strength: float) -> DenseHead:
    """Fit a head; classes without examples get logits that no other class reaches.

    Args:
        examples: Of two classes or more.
        method: How.
        strength: Of regularisation, for `logistic`.
    """
    there = np.unique(examples.labels)
    weights = examples.weights * (_balance(examples.labels, examples.classes) if method.balanced else 1.0)
    layers = _FITS[method.kind](examples, method, strength, weights)
    if len(there) == examples.classes:
        return DenseHead(tuple(layers))
    *before, (kernel, bias) = layers
    wide = np.zeros((kernel.shape[0], examples.classes), np.float32)
    wide[:, there] = kernel
    low = np.full(examples.classes, np.float32(-1e3))
    low[there] = bias
    return DenseHead((*before, (wide, low)))


def out_of_fold(examples: Examples, method: Method, strength: float) -> Array:
    """Return the logits of each example by a head that knew none of its unit: float64 [N, classes].

    The strength of regularisation is the same in all folds, because it decides how large logits are. Rows are NaN for
    altered copies, and for photos whose class is in no other fold.
    """
    found = np.full((len(examples.labels), examples.classes), np.nan)
    count = fold_count(examples.labels[examples.whole], examples.units[examples.whole])
    for train, test in _sound(folds(count, examples.labels, examples.units, method.seed), examples.labels):
        part = examples.part(train)
        known = np.isin(examples.labels[test], part.labels) & examples.whole[test]
        rows = test[known]
        found[rows] = fit(part, method, strength).logits(examples.vectors[rows])
    return found


def _sound(splits: Sequence[tuple[Array, Array]], labels: Array) -> list[tuple[Array, Array]]:
    """Leave out folds whose training photos are of one class, unless all are."""
    return [(train, test) for train, test in splits if len(np.unique(labels[train])) > 1 and len(test)]


def _balance(labels: Array, classes: int) -> Array:
    sizes = np.bincount(labels, minlength=classes)
    return np.asarray((len(labels) / np.maximum(sizes * np.count_nonzero(sizes), 1))[labels])


def _standard(examples: Examples) -> tuple[Array, tuple[Array, Array]]:
    mean = examples.vectors.mean(axis=0, dtype=np.float64)
    deviation = np.maximum(examples.vectors.std(axis=0, dtype=np.float64), _SMALLEST_DEVIATION)
    known = (examples.vectors - mean) / deviation
    return known, (mean, deviation)


def _unstandard(kernel: Array, bias: Array, mean: Array, deviation: Array) -> tuple[Array, Array]:
    """Fold the standardisation into a layer."""
    folded = kernel / deviation[:, None]
    return folded.astype(np.float32), (bias - mean @ folded).astype(np.float32)


def _both(kernel: Array, bias: Array) -> tuple[Array, Array]:
    """Give the first of two classes a logit of 0, where scikit-learn has one logit for both."""
    if kernel.shape[1] > 1:
        return kernel, bias
    return np.concatenate([np.zeros_like(kernel), kernel], axis=1), np.concatenate([np.zeros_like(bias), bias])


def _logistic(examples: Examples, _method: Method, strength: float, weights: Array) -> list[tuple[Array, Array]]:
    known, (mean, deviation) = _standard(examples)
    axes = axes_of(known)
    model = fitted(known if axes is None else known @ axes.T, examples.labels, strength, weights)
    kernel = model.coef_.T if axes is None else axes.T @ model.coef_.T
    return [_unstandard(*_both(kernel, model.intercept_), mean, deviation)]


def _mean(examples: Examples, _method: Method, _strength: float, weights: Array) -> list[tuple[Array, Array]]:
    """Nearest class mean of standardised vectors: 2 x·m - |m|², which differs from -|x - m|² by what no class has."""
    known, (mean, deviation) = _standard(examples)
    there, place = np.unique(examples.labels, return_inverse=True)
    one_hot = np.eye(len(there))[place] * weights[:, None]
    means = (one_hot.T @ known) / one_hot.sum(axis=0)[:, None]
    scale = 1 / known.shape[1]
    return [_unstandard(2 * scale * means.T, -scale * (means**2).sum(axis=1), mean, deviation)]


def _mlp(examples: Examples, method: Method, _strength: float, weights: Array) -> list[tuple[Array, Array]]:
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415 -- an extra

    known, (mean, deviation) = _standard(examples)
    # Weights decay instead of stopping early: a fifth of few photos is too small to stop by.
    model = MLPClassifier(
        method.hidden,
        alpha=_MLP_PENALTY,
        batch_size=min(32, len(known)),
        max_iter=_MLP_EPOCHS,
        random_state=method.seed,
    ).fit(known.astype(np.float32), examples.labels, weights)
    layers = [(np.asarray(k, np.float64), np.asarray(b, np.float64)) for k, b in zip(model.coefs_, model.intercepts_,
                                                                                    strict=True)]  # fmt: skip
    layers[-1] = _both(*layers[-1])
    first = _unstandard(*layers[0], mean, deviation)
    return [first, *((k.astype(np.float32), b.astype(np.float32)) for k, b in layers[1:])]


_FITS: dict[Kind, Callable[[Examples, Method, float, Array], list[tuple[Array, Array]]]] = {
    "logistic": _logistic,
    "mean": _mean,
    "mlp": _mlp,
}
