"""Measure how well vectors find photos of the same class, tell classes apart, or find duplicates.

Every measure comes with its errors under the bootstrap: photos (or groups) are drawn with replacement, and each is
drawn as a query and as a neighbour of the others. All candidates see the same draws, so that differences are paired.
`exporter.sweep.statistics` makes intervals of the errors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

RECALLS = (1, 5, 10)
NEIGHBOURS = 20
"""k of the larger nearest-neighbour classifier."""
FALSE_ALARMS = 0.01
"""Share of different pairs above the threshold that is reported for duplicates."""

_CHUNK = 1 << 22
"""Similarities that are in memory at a time."""
_LISTED = 48
"""Nearest photos that are kept of each query; a resample lacks about a third of them."""
_ABSENT = np.iinfo(np.int32).min + 1
_VOTES_RESAMPLED = 250
_VOTE = 1000
_TIE_BREAK = 0.02
"""Weight of similarity against a vote: even 20 neighbours of similarity 1 weigh less than one vote."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a candidate reaches.

    Attributes:
        estimate: The measure that decides.
        others: Further measures, by name.
        errors: Of the estimate in each resample, float32 [resamples].
        on: Computes the measure on some units only, given as bool [units]; NaN if nothing is left to measure.
        predicted: Class of each query by its neighbours, for a confusion matrix; None for pairs.
    """

    estimate: float
    others: Mapping[str, float]
    errors: Array
    on: Callable[[Array], float] = field(repr=False)
    predicted: Array | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Every query looks for photos of its class among the gallery, without itself and its own group.

    Attributes:
        labels: Class of each photo, int [photos].
        queries: Indices of photos that are looked for.
        gallery: Indices of photos that are found.
        groups: Group of each photo, int [photos]; photos of one group do not find each other.
        unit_of: Unit of each photo that is drawn with it, int [photos].
        drawn: How often each unit is drawn in each resample, uint8 [units, resamples].
        primary: `recall@1`, `recall@5`, `recall@10`, `mAP`, `1-NN` or `20-NN`.
        classes: Whether the neighbours classify (1-NN, 20-NN), or are a list (recalls and mAP).
    """

    labels: Array
    queries: Array
    gallery: Array
    groups: Array
    unit_of: Array
    drawn: Array
    primary: str
    classes: bool

    @property
    def chance(self) -> float:
        """What a random ranking reaches; a majority vote on random neighbours, the largest class."""
        wanted = self.labels[self.queries]
        sizes = np.bincount(self.labels[self.gallery], minlength=int(self.labels.max()) + 1)
        own = np.isin(self.queries, self.gallery)
        found, among = sizes[wanted] - own, len(self.gallery) - own
        if self.primary == "20-NN":
            return float(np.bincount(wanted).max() / len(wanted))
        if self.primary == "mAP":
            # Bestgen, "Exact Expected Average Precision of the Random Baseline", 2015.
            harmonic = np.log(among) + 0.5772156649 + 0.5 / among
            rest = np.maximum(among - 1, 1)
            return float((((found - 1) * (among - harmonic) / rest + harmonic) / among).mean())
        count = int(self.primary.partition("@")[2] or 1)
        return float((1 - (1 - found / among) ** count).mean())

    def score(self, vectors: Array) -> Scores:
        """Measure some vectors by cosine."""
        unit = normalised(vectors)
        found = unit[self.gallery]
        values: dict[str, list[Array]] = {}
        drawn = self._drawn
        predicted, resampled, influence = [], np.zeros(drawn.shape[1]), np.zeros(len(self.labels))
        step = max(1, _CHUNK // len(found))
        for start in range(0, len(self.queries), step):
            queries = self.queries[start : start + step]
            keys, matches = self._keys(unit[queries] @ found.T, queries)
            near = _nearest(keys, min(_LISTED, keys.shape[1]))
            hits = np.take_along_axis(matches, near, 1)
            measured: dict[str, Array] = {}
            if self.classes:
                predicted.append(self._voted(keys, near[:, :NEIGHBOURS]))
                measured["1-NN"] = hits[:, 0]
                measured[f"{NEIGHBOURS}-NN"] = predicted[-1] == self.labels[queries]
            else:
                predicted.append(self.labels[self.gallery[near[:, 0]]])
                measured |= {f"recall@{count}": np.asarray(hits[:, :count].any(axis=1)) for count in RECALLS}
                if self.primary == "mAP":
                    order = np.argsort(keys, axis=1, kind="stable")[:, ::-1]
                    measured["mAP"], each = _average_precision(np.take_along_axis(matches, order, 1))
                    np.add.at(influence, self.gallery[order.ravel()], each.ravel())
                else:
                    measured["mAP"] = _precision_only((np.sort(keys, axis=1)[:, ::-1] & 1) == 0)
            if self.primary != "mAP":
                resample = self._votes if self._count > 1 and self.classes else self._found
                resampled += resample(queries, near, hits)
            for name, each in measured.items():
                values.setdefault(name, []).append(each)
        means = {name: np.concatenate(parts).astype(np.float64) for name, parts in values.items()}
        own = means[self.primary]
        if self.primary != "mAP":
            weights = drawn[self.unit_of[self.queries]].sum(axis=0, dtype=np.float64)
            levels = resampled / np.maximum(weights, 1)
            errors = levels - levels.mean()  # centred, since a resample's gallery is thinner
        else:
            influence[self.queries] += own - own.mean()
            units = np.bincount(self.unit_of, influence, len(self.drawn)) / len(own)
            errors = linear_errors(units, self.drawn)
        unit_of_query = self.unit_of[self.queries]

        def on(chosen: Array) -> float:
            there = chosen[unit_of_query]
            return float(own[there].mean()) if there.any() else float("nan")

        others = {name: float(each.mean()) for name, each in means.items() if name != self.primary}
        return Scores(float(own.mean()), others, errors.astype(np.float32), on, np.concatenate(predicted))

    @property
    def _count(self) -> int:
        """Neighbours that decide the primary measure, but for mAP."""
        return int("".join(filter(str.isdigit, self.primary)) or 0)

    @property
    def _drawn(self) -> Array:
        """The resamples that are used; fewer for votes, which take longer."""
        return self.drawn[:, :_VOTES_RESAMPLED] if self.primary == f"{NEIGHBOURS}-NN" else self.drawn

    def _votes(self, queries: Array, near: Array, _: Array) -> Array:
        """Return how many queries are classified rightly in each resample, each counted as often as it is drawn."""
        drawn, classes = self._drawn, int(self.labels.max()) + 1
        total = np.zeros(drawn.shape[1])
        step = max(1, (_CHUNK << 1) // (drawn.shape[1] * classes))
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            weights = drawn[self.unit_of[queries[rows]]]
            left = np.full(weights.shape, self._count, np.int8)
            votes = np.zeros((len(weights), classes, drawn.shape[1]), np.int16)
            each = np.arange(len(weights))
            for place in range(near.shape[1]):
                photos = self.gallery[near[rows, place]]
                there = (drawn[self.unit_of[photos]] > 0) & (left > 0)
                # Of classes with as many votes the one with nearer ones wins.
                votes[each, self.labels[photos]] += there * np.int16(_VOTE - place)
                left -= there
                if not left.any():
                    break
            right = votes.argmax(axis=1) == self.labels[queries[rows]][:, None]
            total += (right * weights).sum(axis=0, dtype=np.float64)
        return total

    def _found(self, queries: Array, near: Array, hits: Array) -> Array:
        """Return how many queries find their class in each resample, each counted as often as it is drawn.

        A neighbour that is not drawn is absent, and the next nearest takes its place.
        """
        total = np.zeros(self.drawn.shape[1])
        step = max(1, (_CHUNK << 1) // self.drawn.shape[1])
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            weights = self.drawn[self.unit_of[queries[rows]]]
            left = np.full(weights.shape, self._count, np.int8)
            found = np.zeros(weights.shape, bool)
            for place in range(near.shape[1]):
                there = (self.drawn[self.unit_of[self.gallery[near[rows, place]]]] > 0) & (left > 0)
                found |= there & hits[rows, place, None]
                left -= there
                if not left.any():
                    break
            total += (found * weights).sum(axis=0, dtype=np.float64)
        return total

    def nearest(self, vectors: Array, query: int, count: int) -> list[int]:
        """Return the photos nearest to a photo, nearest first."""
        unit = normalised(vectors)
        queries = np.array([query])
        keys, _ = self._keys(unit[queries] @ unit[self.gallery].T, queries)
        return [int(index) for index in self.gallery[_nearest(keys, count)[0]]]

    def _keys(self, similarities: Array, queries: Array) -> tuple[Array, Array]:
        """Return sortable keys, and whether each photo of the gallery is of the query's class, [queries, gallery].

        Keys are the similarities as integers of the same order. The lowest bit says that a pair is not of a class, so
        that among equals those come first: ties never help. Photos that do not count have the smallest key.
        """
        bits = np.ascontiguousarray(similarities, dtype=np.float32).view(np.int32)
        keys = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)
        matches = self.labels[queries][:, None] == self.labels[self.gallery][None, :]
        keys = (keys & np.int32(-2)) | ~matches
        same = queries[:, None] == self.gallery[None, :]
        same |= self.groups[queries][:, None] == self.groups[self.gallery][None, :]
        keys[same] = _ABSENT
        matches &= ~same
        return keys, matches

    def _voted(self, keys: Array, near: Array) -> Array:
        """Let the nearest vote; of classes with as many votes, the more similar one wins."""
        labels = self.labels[self.gallery[near]]
        kept = np.take_along_axis(keys, near, 1)
        weights = np.where(kept > _ABSENT, 1 + _TIE_BREAK * _similarities(kept), 0.0)
        rows = np.arange(len(near))
        votes = np.zeros((len(near), int(self.labels.max()) + 1))
        for place in range(near.shape[1]):
            votes[rows, labels[:, place]] += weights[:, place]
        return np.asarray(votes.argmax(axis=1))


def _nearest(keys: Array, count: int) -> Array:
    """Return the places of the largest keys of each row, largest first."""
    near = np.argpartition(keys, keys.shape[1] - count, axis=1)[:, -count:]
    order = np.argsort(np.take_along_axis(keys, near, 1), axis=1, kind="stable")[:, ::-1]
    return np.take_along_axis(near, order, 1)


def _similarities(keys: Array) -> Array:
    return np.where(keys < 0, keys ^ np.int32(0x7FFFFFFF), keys).view(np.float32)


def _precision_only(ranked: Array) -> Array:
    """Return the average precision of each query from its ranking, nearest first, bool [queries, photos]."""
    ranks = np.arange(1, ranked.shape[1] + 1)
    found = ranked.cumsum(axis=1)
    return np.asarray((ranked * found / ranks).sum(axis=1) / np.maximum(found[:, -1], 1))


def _average_precision(ranked: Array) -> tuple[Array, Array]:
    """Return each query's average precision, and the derivative by the weight of each photo in its ranking."""
    wanted = np.maximum(ranked.sum(axis=1, keepdims=True), 1)
    ranks = np.arange(1, ranked.shape[1] + 1)
    found = ranked.cumsum(axis=1)
    precision = found / ranks
    average = (ranked * precision).sum(axis=1, keepdims=True) / wanted
    up = (ranked / ranks)[:, ::-1].cumsum(axis=1)[:, ::-1]
    down = (ranked * precision / ranks)[:, ::-1].cumsum(axis=1)[:, ::-1]
    return average[:, 0], (ranked * (precision + up - average) - down) / wanted


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of photos that show the same or not, told apart by a threshold on their cosine.

    Attributes:
        first: Index of each pair's first photo.
        second: Index of its second photo.
        same: Whether they show the same, bool [pairs].
        unit_of: Unit of each photo, int [photos].
        drawn: How often each unit is drawn in each resample, uint8 [units, resamples].
        primary: `PR area`, the area under the precision-recall curve.
    """

    first: Array
    second: Array
    same: Array
    unit_of: Array
    drawn: Array
    primary: str = "PR area"

    @property
    def chance(self) -> float:
        """The share of pairs that are the same."""
        return float(self.same.mean())

    def score(self, vectors: Array) -> Scores:
        """Measure some vectors by cosine."""
        unit = normalised(vectors)
        cosines = np.concatenate([
            np.einsum("nd,nd->n", unit[self.first[at : at + 4096]], unit[self.second[at : at + 4096]])
            for at in range(0, len(self.first), 4096)
        ])  # fmt: skip
        order = np.lexsort((self.same, -cosines))  # among equals those that are different come first
        ranked = self.same[order]
        areas, derivatives = _average_precision(ranked[None, :])
        influence = np.zeros(len(self.drawn))
        ends = self.unit_of[self.first[order]], self.unit_of[self.second[order]]
        np.add.at(influence, ends[0], derivatives[0])
        np.add.at(influence, ends[1], np.where(ends[0] == ends[1], 0, derivatives[0]))
        different = cosines[~self.same]
        threshold = float(np.quantile(different, 1 - FALSE_ALARMS, method="higher"))
        others = {"threshold": threshold, "found at 1 % false alarms": float((cosines[self.same] > threshold).mean())}

        def on(chosen: Array) -> float:
            kept = ranked[chosen[ends[0]] & chosen[ends[1]]]
            return float(_precision_only(kept[None, :])[0]) if kept.any() else float("nan")

        return Scores(float(areas[0]), others, linear_errors(influence, self.drawn), on)


Task = Neighbours | Pairs


def linear_errors(influence: Array, drawn: Array) -> Array:
    """Return the errors of a measure in each resample, to first order, float32 [resamples].

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 22.

    Args:
        influence: Of each unit on the measure: the change when it is drawn once more.
        drawn: How often each unit is drawn, uint8 [units, resamples].
    """
    errors = influence.astype(np.float32) @ drawn - np.float32(influence.sum())
    return np.asarray(errors, np.float32)


def normalised(vectors: Array) -> Array:
    """Return float32 vectors of length one; a vector of zeros stays."""
    wide = np.asarray(vectors, dtype=np.float32)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.float32(1e-12)))
