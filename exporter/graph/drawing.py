"""Draw a network as the few boxes of a whiteboard sketch, in SVG.

Clean cuts divide the network into segments, segments of one named block are joined, and equal neighbours become one box
with a count. A marked cut always ends a box. The SVG is text, rectangles and lines, written without a library.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import keras

from exporter.graph.cut_points import CutPoint, cut_points
from exporter.graph.network import Network, bits
from exporter.graph.tensors import find_tensor
from microtome.errors import shown

_BLOCK = re.compile(r"(?:[A-Za-z]+\d*_)*?block_?\d+[a-z]?(?=_|$)")
_MERGES = ("Add", "Concatenate", "Average")


@dataclass(frozen=True, slots=True)
class Box:
    """One or several equal blocks, drawn as one box.

    Attributes:
        first: The end of the first block.
        last: The end of the last block; equal to `first` if there is one block.
        repeats: Number of blocks.
        kinds: Layers of each kind in one block.
        branches: Inputs of the block's last merge; 0 without a merge.
        merge: The kind of that merge, or an empty string.
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
        marks: Layers where a cut is drawn.
        expand: Whether every block gets its own box.

    Raises:
        CutError: A layer of `marks` does not exist.
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
    """Return the block ends to draw: of each named block the last one, and every marked cut."""
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
    """Return the ends where one tensor crosses, or all ends if those would leave half of the network in one box."""
    clean = [point for point in ends if point.crossing == 1]
    sizes = sorted(network.needed[at[point.ref]].bit_count() for point in clean)
    if any(after - before > len(network.calls) // 2 for before, after in itertools.pairwise([0, *sizes])):
        clean = ends
    return [point for point in clean if all(_ordered(network, at[point.ref], at[other.ref]) for other in clean)]


def _ordered(network: Network, one: int, other: int) -> bool:
    return bool((network.needed[one] >> other) & 1 or (network.needed[other] >> one) & 1)


def _name(point: CutPoint) -> str | None:
    within, slash, layer = point.ref.rpartition("/")
    found = _BLOCK.match(layer)
    return f"{within}{slash}{found[0]}" if found else None


def _box(network: Network, point: CutPoint, inside: int, *, marked: bool) -> Box:
    calls = [network.calls[index] for index in bits(inside)]
    merges = [call for call in calls if call.kind in _MERGES]
    kinds = Counter(call.kind for call in calls)
    branches = len(merges[-1].inputs) if merges else 0
    return Box(point, point, 1, kinds, branches, merges[-1].kind if merges else "", point if marked else None)


def _alike(one: Box, other: Box) -> bool:
    """Whether two neighbours differ in their width at most."""
    return one.mark is None and one.kinds == other.kinds and one.last.shape[1:-1] == other.last.shape[1:-1]


_WIDTH, _LEFT, _FULL, _HEIGHT, _GAP, _TOP = 1080, 190, 470, 54, 20, 106
_FILLS = ("#dbeafe", "#d1fae5", "#fef3c7", "#fde2e2", "#ede9fe", "#e0f2fe", "#f1f5f9")
_PLAIN = ("BatchNormalization", "Dropout", "InputLayer", "LayerNormalization", "StochasticDepth", "ZeroPadding2D")
_CUT = "#dc2626"
_TIMES = "\u00d7"


def draw(title: str, boxes: Sequence[Box]) -> str:
    """Return the picture as SVG text.

    Args:
        title: Such as `ResNet50, 224x224`.
        boxes: In order, from the input.
    """
    stages = list(dict.fromkeys(box.last.shape[1:-1] for box in boxes))
    parts, y = [], _TOP
    for number, box in enumerate(boxes):
        if number:
            middle = _LEFT + _FULL / 2
            # A stack of boxes is drawn higher than a single box.
            end = y - 11 if box.repeats > 1 else y - 3
            parts.append(_line((middle, y - _GAP), (middle, end), "#475569", 'marker-end="url(#arrow)"'))
        parts += _box_svg(box, y, _FILLS[stages.index(box.last.shape[1:-1]) % len(_FILLS)])
        y += _HEIGHT + _GAP
        if box.mark is not None:
            parts += _cut(box, y)
            y += 2 * _GAP + 10
    last = boxes[-1].last
    flops = "operations unknown" if last.flops is None else f"{last.flops / 1e9:.2f} billion operations"
    head = [
        _text(24, 38, title, size=22, font_weight="bold"),
        _text(24, 62, f"{last.params / 1e6:.2f} million weights, {flops} (a multiply-add is two)", fill="#475569"),
        _text(_LEFT - 36, _TOP - 16, "output", text_anchor="end", size=12, fill="#64748b"),
        _text(_LEFT + _FULL + 70, _TOP - 16, "up to here: weights, operations, field", size=12, fill="#64748b"),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y + 16}" viewBox="0 0 {_WIDTH} {y + 16}" '
        'font-family="DejaVu Sans, Verdana, sans-serif">\n<defs><marker id="arrow" markerWidth="8" markerHeight="8" '
        'refX="5" refY="3" orient="auto"><path d="M0,0 L6,3 L0,6 z" fill="#475569"/></marker></defs>\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{chr(10).join([*head, *parts])}\n</svg>\n'
    )


def _box_svg(box: Box, y: float, fill: str) -> list[str]:
    middle, width = _LEFT + _FULL / 2, _breadth(box)
    left = middle - width / 2
    parts = [
        f'<rect x="{left + shift}" y="{y - shift}" width="{width}" height="{_HEIGHT}" rx="7" fill="{fill}" '
        'stroke="#64748b"/>'
        for shift in ((8, 4, 0) if box.repeats > 1 else (0,))
    ]
    names = box.first.ref if box.repeats == 1 else f"{box.first.ref} … {box.last.ref}"
    parts.append(_text(middle, y + 22, _fit(names, width, 7.6), text_anchor="middle", size=13, font_weight="bold"))
    parts.append(_text(middle, y + 41, _fit(_layers(box), width, 6.4), text_anchor="middle", size=11, fill="#334155"))
    if box.repeats > 1:
        parts.append(_text(left + width + 14, y + 33, f"{_TIMES}{box.repeats}", size=16, font_weight="bold"))
    if box.merge == "Add":
        parts.append(
            f'<path d="M{left},{y + 6} C{left - 26},{y + 6} {left - 26},{y + _HEIGHT - 6} {left},{y + _HEIGHT - 6}" '
            'fill="none" stroke="#475569" marker-end="url(#arrow)"/>'
        )
    parts.append(_text(_LEFT - 36, y + 32, _shape(box), text_anchor="end", size=13))
    parts.append(_text(_LEFT + _FULL + 70, y + 32, _facts(box), size=13, fill="#334155"))
    return parts


def _cut(box: Box, y: float) -> list[str]:
    mark = box.last
    tensors = "1 tensor crosses" if mark.crossing == 1 else f"{mark.crossing} tensors cross"
    label = f"cut at {mark.ref}: {_sides(mark.shape[1:])}, {tensors}, {mark.dimension} numbers after average pooling"
    return [
        _line((24, y), (_WIDTH - 24, y), _CUT, 'stroke-dasharray="9 5" stroke-width="2"'),
        _text(24, y + 17, label, size=13, font_weight="bold", fill=_CUT),
    ]


def _breadth(box: Box) -> float:
    """Return a box's width, which shrinks with the feature map but stays readable."""
    sides = [side for side in box.last.shape[1:-1] if side]
    return _FULL * min(1.0, 0.62 + 0.055 * math.log2(max(sides, default=1)))


def _layers(box: Box) -> str:
    telling = [(kind, count) for kind, count in box.kinds.items() if kind not in _PLAIN]
    shown = ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in telling)
    return f"{shown} of {box.branches}" if box.merge == "Concatenate" and box.kinds["Concatenate"] == 1 else shown


def _shape(box: Box) -> str:
    first, last = box.first.shape[-1], box.last.shape[-1]
    return _sides(box.last.shape[1:]) if first == last else f"{_sides(box.last.shape[1:-1])}{_TIMES}{first}…{last}"


def _facts(box: Box) -> str:
    point, field = box.last, box.last.field
    seen = f"{max(field.size)} px" if field.size else "all" if field.whole else "?"
    flops = "?" if point.flops is None else f"{point.flops / 1e9:.2f} G"
    return f"{point.params / 1e6:.2f} M, {flops}, {seen}{'+' if field.size and field.whole else ''}"


def _sides(shape: Sequence[int | None]) -> str:
    return _TIMES.join("?" if side is None else str(side) for side in shape)


def _fit(text: str, width: float, letter: float) -> str:
    room = int(width / letter) - 2
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _line(start: tuple[float, float], end: tuple[float, float], colour: str, more: str) -> str:
    return f'<line x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}" stroke="{colour}" {more}/>'


def _text(x: float, y: float, text: str, *, size: int = 14, **style: str) -> str:
    attributes = {"fill": "#0f172a", **style}
    written = " ".join(f'{key.replace("_", "-")}="{value}"' for key, value in attributes.items())
    return f'<text x="{x}" y="{y}" font-size="{size}" {written}>{escape(shown(text))}</text>'
