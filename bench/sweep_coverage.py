"""How often the sweep's paired intervals hold the truth: sets of photos from a population whose truth is known.

    python -m bench.sweep_coverage --sets 500

The population has 50,000 photos of 20 classes, seen by two candidates with different noise. The truth is the same
measure on all of it. Recalls grow with a collection; theirs is for collections as large as a set, drawn from the
population: computed from the ranks of all 50,000. Only for votes of 20 neighbours is it the mean over the sets.
"""

import argparse
import sys
import time
from typing import Any

import numpy as np

from exporter.features.resampling import resamples
from exporter.sweep.measures import Neighbours, normalised
from exporter.sweep.statistics import compare

Array = np.ndarray[Any, Any]

POPULATION, CLASSES, WIDTH = 50_000, 20, 12
MEASURES = ("recall@1", "recall@5", "mAP", "1-NN", "20-NN")


def population() -> tuple[Array, list[Array]]:
    """Return labels, and each candidate's vectors."""
    numbers = np.random.default_rng(0)
    centres = numbers.normal(size=(CLASSES, WIDTH))
    labels = numbers.integers(0, CLASSES, POPULATION)
    shown = centres[labels] + 0.9 * numbers.normal(size=(POPULATION, WIDTH))
    return labels, [(shown + noise * numbers.normal(size=shown.shape)).astype(np.float32) for noise in (0.5, 0.6)]


def truths(labels: Array, vectors: Array, share: float) -> dict[str, float]:
    """Return the measures on the whole population.

    Recall@k is its expectation where each other photo is in the collection with a probability: the first match that is
    there is the j-th with (1 - share)^(j - 1) share, and it is found if fewer than k of those before it are there.
    """
    unit, found = normalised(vectors), []
    few = {k: fewer_than(k, share) for k in (1, 5)}
    for start in range(0, POPULATION, 100):
        cosines = unit[start : start + 100] @ unit.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -np.inf
        ranked = labels[np.argsort(-cosines, axis=1)[:, :-1]] == labels[start : start + len(cosines), None]
        for row in ranked:
            ranks = np.flatnonzero(row)
            order = np.arange(len(ranks))
            first = share * (1 - share) ** order
            precision = ((order + 1) / (ranks + 1)).mean()
            found.append([precision, *(first @ each[ranks - order] for each in few.values())])
    average, one, five = np.mean(found, axis=0).tolist()
    return {"mAP": average, "recall@1": one, "recall@5": five, "1-NN": one}


def fewer_than(count: int, share: float) -> Array:
    """Return the probability that fewer than `count` of n are there, float64 [POPULATION] by n: binomial."""
    n = np.arange(POPULATION)
    term = (1 - share) ** n
    total = term.copy()
    for there in range(1, count):
        term = term * (n - there + 1) / there * share / (1 - share)
        total += term
    return total


def main() -> int:
    """Print a row of Markdown for each measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=500)
    parser.add_argument("--photos", type=int, default=300)
    arguments = parser.parse_args()
    labels, seen = population()
    first, second = (truths(labels, vectors, (arguments.photos - 1) / (POPULATION - 1)) for vectors in seen)
    every = np.arange(arguments.photos)
    drawn = resamples(arguments.photos, 0)
    print("| measure | true difference | scatter of differences | standard error of intervals | coverage |")
    print("|---|---|---|---|---|")
    for primary in MEASURES:
        started, differences, intervals = time.process_time(), [], []
        for seed in range(arguments.sets):
            chosen = np.random.default_rng(seed + 1).choice(POPULATION, arguments.photos, replace=False)
            task = Neighbours(
                labels[chosen], every, every, every, every, drawn, primary, classes=primary.endswith("-NN")
            )
            one, other = (task.score(vectors[chosen]) for vectors in seen)
            found = compare([one.estimate, other.estimate], [one.errors, other.errors], 0, 0.0, [0, 1])
            differences.append(other.estimate - one.estimate)
            intervals.append(found.against_default[1])
        truth = second[primary] - first[primary] if primary in first else float(np.mean(differences))
        sides = np.array(intervals)
        held = float(((sides[:, 0] <= truth) & (truth <= sides[:, 1])).mean())
        error = float((sides[:, 1] - sides[:, 0]).mean() / 2 / 1.96)
        print(f"| {primary} | {truth:+.4f} | {np.std(differences):.4f} | {error:.4f} | {held:.1%} |", flush=True)
        sys.stderr.write(f"{primary}: {time.process_time() - started:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
