"""Reduce a network to the few boxes that people draw on a whiteboard.

clean cuts divide the network into segments → segments of one named block are joined → like neighbours are one box
with a count. A marked cut is always the end of a box.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import keras

from exporter.anatomy.calls import Network, bits
from exporter.anatomy.facts import CutPoint, cut_points
from exporter.tensors import find_tensor

_BLOCK = re.compile(r"(?:[A-Za-z]+\d*_)*?block_?\d+[a-z]?(?=_|$)")
_MERGES = ("Add", "Concatenate", "Average")


@dataclass(frozen=True, slots=True)
class Box:
    """Some layers, drawn as one.

    Attributes:
        first: The end of the first of the blocks.
        last: The end of the last of the blocks; equal to `first` when there is one.
        repeats: How many like blocks there are.
        kinds: How many layers of each kind one of them has.
        branches: How many tensors its last merge takes; 0 when nothing is merged.
        merge: That merge's kind, or nothing.
        mark: The cut that is marked at the end of the box.
    """

    first: CutPoint
    last: CutPoint
    repeats: int
    kinds: Counter[str]
    branches: int
    merge: str
    mark: CutPoint | None


def outline(model: keras.Model, marks: Sequence[str], *, expand: bool) -> list[Box]:
    """Return the boxes of a network, in order.

    Args:
        model: The network.
        marks: Layers where a cut is to be shown.
        expand: Whether every block gets a box of its own.

    Raises:
        CutError: There is no such layer.
    """
    network = Network(model)
    points = {point.ref: point for point in cut_points(model)}
    at = {ref: network.position(find_tensor(network.model, ref)) for ref in points}
    wanted = {network.position(find_tensor(network.model, ref)) for ref in marks}
    marked = {at[ref] for ref in points if at[ref] in wanted}
    ends = _joined(network, list(points.values()), at, marked)
    masks = list(itertools.accumulate((network.needed[at[point.ref]] for point in ends), int.__or__))
    boxes: list[Box] = []
    for point, before, mask in zip(ends, [0, *masks], masks, strict=False):
        box = _box(network, point, mask & ~before, marked=at[point.ref] in marked)
        if not expand and boxes and _alike(boxes[-1], box):
            earlier = boxes.pop()
            box = Box(earlier.first, point, earlier.repeats + 1, box.kinds, box.branches, box.merge, box.mark)
        boxes.append(box)
    return boxes


def _joined(network: Network, points: list[CutPoint], at: dict[str, int], marked: set[int]) -> list[CutPoint]:
    """Keep the ends that follow one from the other, and of each named block the last; and whatever is marked."""
    ends = _clean(network, [point for point in points if point.block_end], at)
    ordered = sorted(ends, key=lambda point: network.needed[at[point.ref]].bit_count())
    kept = [
        point
        for point, following in itertools.zip_longest(ordered, ordered[1:])
        if following is None or _name(point) is None or _name(point) != _name(following)
    ]
    have = {at[point.ref] for point in kept}
    more = [point for point in points if at[point.ref] in marked - have]
    return sorted([*kept, *more], key=lambda point: network.needed[at[point.ref]].bit_count())


def _clean(network: Network, ends: list[CutPoint], at: dict[str, int]) -> list[CutPoint]:
    """Return the ends where one tensor crosses; all ends where those would leave most of the network in one box."""
    clean = [point for point in ends if point.crossing == 1]
    sizes = sorted(network.needed[at[point.ref]].bit_count() for point in clean)
    if any(after - before > len(network.calls) // 2 for before, after in itertools.pairwise([0, *sizes])):
        clean = ends
    return [point for point in clean if all(_ordered(network, at[point.ref], at[other.ref]) for other in clean)]


def _ordered(network: Network, one: int, other: int) -> bool:
    return bool((network.needed[one] >> other) & 1 or (network.needed[other] >> one) & 1)


def _name(point: CutPoint) -> str | None:
    found = _BLOCK.match(point.ref)
    return found[0] if found else None


def _box(network: Network, point: CutPoint, inside: int, *, marked: bool) -> Box:
    calls = [network.calls[index] for index in bits(inside)]
    merges = [call for call in calls if call.kind in _MERGES]
    kinds = Counter(call.kind for call in calls)
    branches = len(merges[-1].inputs) if merges else 0
    return Box(point, point, 1, kinds, branches, merges[-1].kind if merges else "", point if marked else None)


def _alike(one: Box, other: Box) -> bool:
    """Say whether two neighbours are the same but for their width."""
    return one.mark is None and one.kinds == other.kinds and one.last.shape[1:-1] == other.last.shape[1:-1]
