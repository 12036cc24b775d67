"""How often the sweep's paired intervals hold the truth: sets of photos from a population whose truth is known.

    python -m bench.sweep_coverage --sets 500

The population has 50,000 photos of 20 classes, seen by two candidates with different noise. For mAP the truth is the
measure on all of it; for recall and nearest neighbours, which grow with a collection, the mean over the sets.
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
QUERIES = 4_000
"""Of the population, whose mAP among all of it is the truth."""


def population() -> tuple[Array, list[Array]]:
    """Return labels, and each candidate's vectors."""
    numbers = np.random.default_rng(0)
    centres = numbers.normal(size=(CLASSES, WIDTH))
    labels = numbers.integers(0, CLASSES, POPULATION)
    shown = centres[labels] + 0.9 * numbers.normal(size=(POPULATION, WIDTH))
    return labels, [(shown + noise * numbers.normal(size=shown.shape)).astype(np.float32) for noise in (0.5, 0.6)]


def average_precision(labels: Array, vectors: Array) -> float:
    """Return the mAP of some photos among the whole population."""
    unit, found = normalised(vectors), []
    for start in range(0, QUERIES, 100):
        cosines = unit[start : start + 100] @ unit.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -np.inf
        ranked = labels[np.argsort(-cosines, axis=1)[:, :-1]] == labels[start : start + len(cosines), None]
        precision = ranked.cumsum(axis=1) / np.arange(1, ranked.shape[1] + 1)
        found.append((ranked * precision).sum(axis=1) / ranked.sum(axis=1))
    return float(np.concatenate(found).mean())


def main() -> int:
    """Print a row of Markdown for each measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=500)
    parser.add_argument("--photos", type=int, default=300)
    arguments = parser.parse_args()
    labels, seen = population()
    whole = average_precision(labels, seen[1]) - average_precision(labels, seen[0])
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
        truth = whole if primary == "mAP" else float(np.mean(differences))
        sides = np.array(intervals)
        held = float(((sides[:, 0] <= truth) & (truth <= sides[:, 1])).mean())
        error = float((sides[:, 1] - sides[:, 0]).mean() / 2 / 1.96)
        print(f"| {primary} | {truth:+.4f} | {np.std(differences):.4f} | {error:.4f} | {held:.1%} |", flush=True)
        sys.stderr.write(f"{primary}: {time.process_time() - started:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
