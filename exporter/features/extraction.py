"""Compute the vectors of many outputs of one backbone, for all photos, in one forward pass each."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from exporter.errors import CalibrationImageBroken
from exporter.features.store import FeatureStore, State
from exporter.head.projection import Fitted, random_projection
from exporter.head.slicing import Slice
from exporter.runtime.memory import release
from exporter.runtime.terminal import counted
from exporter.savedmodel.freezing import FrozenGraph, frozen_graph
from microtome.machine import cores

BATCH = 8
_HASH_SIDE = 16

Array = np.ndarray[Any, Any]


def dimensions(slice_: Slice) -> dict[str, int]:
    """Return the length of each output's vectors, by name."""
    return {output.recipe.name: math.prod(output.shape) for output in slice_.outputs}


def frozen(slice_: Slice) -> FrozenGraph:
    """Freeze a slice of many outputs with the head that an export would freeze; projections are random ones."""
    projections: dict[str, Fitted] = {
        output.recipe.name: random_projection(output.recipe.name, output.pooled[0], output.recipe.projection)
        for output in slice_.outputs
        if output.recipe.projection is not None
    }
    return frozen_graph(slice_, projections, "float32")


def extract(graph: FrozenGraph, read: Callable[[int], Array], store: FeatureStore, what: str) -> dict[int, str]:
    """Compute the vectors that a store lacks.

    A batch holds the same photos in every run and runs on one core, so that a run that was interrupted and one that was
    not give the same bits, on any number of cores.

    Args:
        graph: Its outputs are those of the store.
        read: From a photo's index to its pixels, uint8 [height, width, 3]; raises CalibrationImageBroken.
        store: Gets the vectors.
        what: For the progress bar.

    Returns:
        What is wrong with each photo that cannot be decoded, by index.
    """
    problems = {int(index): _problem(read, int(index)) for index in np.flatnonzero(store.states == State.BROKEN)}
    missing = store.states == State.MISSING
    starts = [start for start in range(0, store.count, BATCH) if missing[start : start + BATCH].any()]
    if not starts:
        return problems
    with graph.session(threads=1) as run, ThreadPoolExecutor(cores()) as pool:

        def run_batch(start: int) -> tuple[int, Mapping[str, Array], dict[int, Array], dict[int, str]]:
            words: dict[int, Array] = {}
            wrong: dict[int, str] = {}
            pixels: list[Array | None] = []
            for index in range(start, min(start + BATCH, store.count)):
                try:
                    image = read(index)
                except CalibrationImageBroken as error:
                    wrong[index] = str(error)
                    pixels.append(None)
                else:
                    pixels.append(image)
                    words[index] = perceptual_hash(image)
            whole = next((one for one in pixels if one is not None), None)
            if whole is None:
                return start, {}, words, wrong
            # As many images in the last batch, and in one with broken photos, as in the others.
            black = np.zeros_like(whole)
            batch = [black if one is None else one for one in pixels] + [black] * (BATCH - len(pixels))
            return start, run(np.stack(batch)), words, wrong

        for start, answers, words, wrong in counted(_ahead(pool, run_batch, starts), len(starts), what):
            for index, found in words.items():
                store.write(index, {name: vectors[index - start] for name, vectors in answers.items()}, found)
            for index in wrong:
                store.write_broken(index)
            problems |= wrong
    store.flush()
    release()
    return problems


def _problem(read: Callable[[int], Array], index: int) -> str:
    try:
        read(index)
    except CalibrationImageBroken as error:
        return str(error)
    return "It could not be decoded when its vectors were computed."


def _ahead(
    pool: ThreadPoolExecutor, run: Callable[[int], Any], starts: list[int]
) -> Iterator[tuple[int, Mapping[str, Array], dict[int, Array], dict[int, str]]]:
    """Run batches in order, a few ahead of the reader, so that memory does not grow with their number."""
    waiting: deque[Future[Any]] = deque()
    for start in starts:
        waiting.append(pool.submit(run, start))
        if len(waiting) > 2 * cores():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def perceptual_hash(pixels: Array) -> Array:
    """Return a difference hash of 256 bits, as uint64 [4]: whether each cell is brighter than its left neighbour.

    Neal Krawetz, "Kind of Like That", 2013. Copies of a photo that were scaled or compressed differ in a few bits;
    different photos in about half of them.
    """
    grey = Image.fromarray(pixels).convert("L").resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.BOX)
    cells = np.asarray(grey, dtype=np.int16)
    bits = np.packbits(cells[:, 1:] > cells[:, :-1])
    return bits.view(np.uint64)
