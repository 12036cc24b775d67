"""A sweep from photos to a decision: features of all cuts, measures, intervals, details of the front."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from exporter.errors import ImpossibleOption
from exporter.features.photos import Collection, check_classes
from exporter.features.store import FeatureStore, State, dimensions, extract, frozen, near_copies
from exporter.models.building import Built, build
from exporter.recipe.preprocessing import recorded
from exporter.runtime.terminal import counted, stage, timed, warn
from exporter.savedmodel.fingerprint import fingerprint
from exporter.savedmodel.freezing import FrozenGraph
from exporter.sweep.candidates import Candidate, cuts
from exporter.sweep.details import Losses, losses, milliseconds
from exporter.sweep.measures import Neighbours, Scores
from exporter.sweep.probe import NAME as PROBE
from exporter.sweep.probe import probe
from exporter.sweep.request import Request, Variant
from exporter.sweep.statistics import Comparison, Decision, Optimism, compare, decide, optimism
from exporter.sweep.tasks import Setting, Views, setting, views_of

_ADVICE = " Take it out of the folder."
_MOST_DETAILED = 10
_MANY = 2_000
"""Images above which only so many candidates are detailed."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep found.

    Attributes:
        request: What was asked for.
        collection: The photos, without those that were left out.
        setting: The task.
        candidates: All candidates, in order of backbones and layers.
        scores: Of each candidate.
        deciding: Indices of the candidates that the decision is about: all, or those with a linear probe.
        decisive: Their scores by the deciding measure.
        measure: Name of the deciding measure.
        chance: What vectors without information reach by it.
        comparison: Of those candidates, by their places in `deciding`.
        general: Of all candidates, by the measure that all of them have.
        decision: By a place in `deciding`.
        optimism: The price of choosing; None with too few photos.
        front: Indices of candidates to which no other is superior in measure, operations and bytes at once.
        losses: By index, of the front's candidates.
        timing: Seconds of each stage, and milliseconds of candidates by index; differs from run to run.
        vectors: From a candidate's index to its vectors, float32 [images, dimensions].
    """

    request: Request
    collection: Collection
    setting: Setting
    candidates: list[Candidate]
    scores: list[Scores]
    deciding: list[int]
    decisive: list[Scores]
    measure: str
    chance: float
    comparison: Comparison
    general: Comparison
    decision: Decision
    optimism: Optimism | None
    front: list[int]
    losses: dict[int, Losses]
    timing: dict[str, Any]
    vectors: Callable[[int], Array] = field(repr=False)

    @property
    def default(self) -> int:
        """Index of the default."""
        return next(index for index, candidate in enumerate(self.candidates) if candidate.default)

    @property
    def best(self) -> int:
        """Index of the candidate with the highest figure."""
        return self.deciding[self.comparison.best]

    @property
    def recommended(self) -> int:
        """Index of what to deploy."""
        return self.deciding[self.decision.recommended]

    @property
    def notes(self) -> list[str]:
        """What the user should know: of the photos, of what was sampled, and of what was left out."""
        notes = [*self.collection.warnings, *self.setting.notes]
        if not set(self.front) <= set(self.losses):
            notes.append(
                f"Shorter vectors and milliseconds are of {len(self.losses)} candidates only: the recommended one, the "
                f"default, and the best of the {len(self.front)} of the front."
            )
        return notes

    @property
    def choice(self) -> str:
        """What the held-out figure leaves out; empty where it repeats the whole choice."""
        if self.measure != PROBE:
            return ""
        return (
            f"{len(self.deciding)} of {len(self.candidates)} candidates got a linear probe: the default, and those "
            "that 20-NN put on the front on all of these photos. The held-out figure does not repeat that step, and "
            "each photo's class was predicted by probes that knew photos of both halves, so it still flatters a "
            "little. Photos that took no part tell for sure."
        )


def sweep(request: Request, collection: Collection) -> Sweep:
    """Run a sweep.

    Raises:
        ExporterError: A backbone cannot be built or cut, or too few photos are left.
    """
    timing: dict[str, Any] = {"seconds": {}}
    views = views_of(collection, request.seed)
    candidates: list[Candidate] = []
    graphs: dict[tuple[str, str], FrozenGraph] = {}
    with ExitStack() as stack:
        stores: list[FeatureStore] = []
        jobs = []
        for index, variant in enumerate(request.variants):
            graph, found = _cut(variant, request, index, graphs)
            jobs.append((variant, graph))
            candidates += found if index == 0 else [replace(one, default=False) for one in found]
            lengths = {one.output.name: one.dimension for one in found}
            stores.append(stack.enter_context(_opened(request, variant, graph, lengths, views)))
        with timed(timing["seconds"], "features"):
            problems: dict[int, str] = {}
            for (variant, graph), store in zip(jobs, stores, strict=True):
                spec = variant.pixels
                read = lambda index, spec=spec: views.read(index, spec)  # noqa: E731 -- bound now
                problems |= extract(graph, read, store, f"{variant.name}: computing vectors")
        collection, there = _complete(collection, views, stores, problems, request)
        task_setting = setting(collection, views, there, request)
        for note in (*collection.warnings, *task_setting.notes):
            warn(note)
        vectors = [
            (lambda one=one: stores[one.variant].vectors(one.output.name)[task_setting.rows]) for one in candidates
        ]
        return _measured(request, _Material(collection, task_setting, candidates, vectors, graphs), timing)


@dataclass(frozen=True, slots=True)
class _Material:
    """What is measured: candidates with their vectors."""

    collection: Collection
    setting: Setting
    candidates: list[Candidate]
    vectors: Sequence[Callable[[], Array]]
    graphs: Mapping[tuple[str, str], FrozenGraph]


def _measured(request: Request, material: _Material, timing: dict[str, Any]) -> Sweep:
    candidates, vectors = material.candidates, material.vectors
    task, default = material.setting.task, next(index for index, one in enumerate(candidates) if one.default)
    units, costs = len(task.drawn), [one.cost for one in candidates]
    with timed(timing["seconds"], "neighbours"):
        scores = [task.score(one()) for one in counted(vectors, len(vectors), "Comparing vectors")]
    general = compare([one.estimate for one in scores], [one.errors for one in scores], default, task.chance, costs)
    front = _front(scores, candidates)
    deciding, decisive, measure, chance = list(range(len(candidates))), scores, request.measure, task.chance
    if request.use == "classify" and isinstance(task, Neighbours):
        deciding = sorted({*front, default})
        with timed(timing["seconds"], "linear probe"):
            decisive = [
                probe(vectors[index](), task.labels, task.unit_of, task.drawn, request.seed)
                for index in counted(deciding, len(deciding), "Fitting linear probes")
            ]
        measure = PROBE
        chance = float(np.bincount(task.labels).max() / len(task.labels))
    place = deciding.index(default)
    chosen_costs = [costs[index] for index in deciding]
    estimates = [one.estimate for one in decisive]
    comparison = compare(estimates, [one.errors for one in decisive], place, chance, chosen_costs)
    decision = decide(comparison, place, chosen_costs, units)
    with stage("Choosing on halves of the photos"), timed(timing["seconds"], "held-out selection"):
        price = optimism([one.on for one in decisive], estimates, place, units, request.seed)
    asked = [deciding[decision.recommended], deciding[comparison.best], default]
    rest = sorted(front, key=lambda index: -scores[index].estimate)
    detailed = list(dict.fromkeys([*asked, *rest]))
    if len(material.setting.rows) > _MANY:
        detailed = detailed[:_MOST_DETAILED]
    with timed(timing["seconds"], "shorter vectors"):
        lost = {
            index: losses(candidates[index], vectors[index](), scores[index], task, request.seed)
            for index in counted(sorted(detailed), len(detailed), "Shortening vectors")
        }
    with stage("Timing early cuts"):
        timing["milliseconds"] = _milliseconds(request, candidates, sorted(detailed), material.graphs)
    return Sweep(
        request, material.collection, material.setting, candidates, scores, deciding,
        decisive, measure, chance, comparison, general,
        decision, price, front, lost, timing, lambda index: np.array(vectors[index]()),
    )  # fmt: skip


def _cut(
    variant: Variant, request: Request, index: int, graphs: dict[tuple[str, str], FrozenGraph]
) -> tuple[FrozenGraph, list[Candidate]]:
    """Build and cut a backbone; variants that differ in preprocessing share its graph."""
    key = (variant.row.name, variant.weights)
    keras.utils.clear_session()
    row = variant.row
    with stage(f"Building {Path(row.name).name} with {variant.weights} weights"):
        built: Built = build(row, variant.weights, variant.pixels)
        found = cuts(built, variant.pixels, request.poolings, request.layers)
    if key not in graphs:
        with stage(f"Cutting {Path(row.name).name} at {len(found.depths)} candidates"):
            graphs[key] = frozen(found.slice_)
    if set(graphs[key].outputs) != set(dimensions(found.slice_)):
        raise ImpossibleOption(f"Expected one input size for {row.name}. Received: several.")
    return graphs[key], found.candidates(index)


def _opened(request: Request, variant: Variant, graph: FrozenGraph, lengths: Mapping[str, int], views: Views) -> Any:  # noqa: ANN401 -- a context manager of a store
    """Open the store of a variant; a digest of all that decides its vectors, but for the photos, names its folder."""
    head = {
        "fingerprint": fingerprint(graph, variant.pixels),
        "photos": [views.photos[of].digest for of in views.of],
        "views": [int(kind) for kind in views.kinds],
        **({"device": "GPU"} if tf.config.list_physical_devices("GPU") else {}),
    }
    names = json.dumps([variant.row.name, variant.weights, recorded(variant.pixels), sorted(lengths)])
    folder = request.out / "features" / hashlib.sha256(names.encode()).hexdigest()[:16]
    return FeatureStore.opened(folder, lengths, len(views.of), head)


def _complete(
    collection: Collection, views: Views, stores: Sequence[FeatureStore], problems: Mapping[int, str], request: Request
) -> tuple[Collection, Array]:
    """Leave out photos that cannot be decoded and copies across classes, and return the images that take part."""
    there = np.all([store.states == State.DONE for store in stores], axis=0)
    left_out = list(collection.left_out)
    for index, problem in sorted(problems.items()):
        if views.kinds[index] == 0:
            photo = views.photos[views.of[index]]
            left_out.append((photo.name, problem.partition(f"{photo.path}: ")[2].removesuffix(_ADVICE) or problem))
    if collection.kind == "classes" and request.use != "duplicates":
        for pair in near_copies(stores[0].hashes, there, [photo.label for photo in collection.photos]):
            for one, other in (pair, pair[::-1]):
                said = f"all but equal to {collection.photos[other].name}, which is in another class"
                left_out.append((collection.photos[one].name, said))
            there[list(pair)] = False
    for name, why in left_out:
        warn(f"left out: {name}: {why}")
    kept = np.unique(views.of[there])
    if not len(kept):
        raise ImpossibleOption("Expected photos that can be decoded. Received: none of them can.")
    if collection.kind == "classes":
        check_classes(replace(collection, photos=tuple(collection.photos[index] for index in kept)), "the photos")
    return replace(collection, left_out=tuple(dict.fromkeys(left_out))), there


def _front(scores: Sequence[Scores], candidates: Sequence[Candidate]) -> list[int]:
    """Return the indices of candidates to which no other is superior in measure, operations and bytes at once."""
    costs = np.array([one.cost[:2] for one in candidates])
    values = np.array([one.estimate for one in scores])
    front = []
    for index in range(len(values)):
        as_good = (values >= values[index]) & (costs <= costs[index]).all(axis=1)
        superior = as_good & ((values > values[index]) | (costs < costs[index]).any(axis=1))
        twin = as_good[:index] & ~superior[:index]  # of equals the first
        if not superior.any() and not twin.any():
            front.append(index)
    return front


def _milliseconds(
    request: Request,
    candidates: Sequence[Candidate],
    chosen: Sequence[int],
    graphs: Mapping[tuple[str, str], FrozenGraph],
) -> dict[int, tuple[float, float]]:
    found: dict[int, tuple[float, float]] = {}
    for at, variant in enumerate(request.variants):
        own = [index for index in chosen if candidates[index].variant == at]
        names = [candidates[index].output.name for index in own]
        graph = graphs[variant.row.name, variant.weights]
        took = milliseconds(graph, names, variant.pixels.shape) if own else {}
        found |= {index: took[name] for index, name in zip(own, names, strict=True)}
    return found
