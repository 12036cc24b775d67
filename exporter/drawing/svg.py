"""Draw the boxes of an outline as SVG, without any library: text, rectangles and lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from exporter.drawing.outline import Box

_WIDTH, _LEFT, _FULL, _HEIGHT, _GAP, _TOP = 1080, 190, 470, 54, 20, 106
_FILLS = ("#dbeafe", "#d1fae5", "#fef3c7", "#fde2e2", "#ede9fe", "#e0f2fe", "#f1f5f9")
_PLAIN = ("BatchNormalization", "Dropout", "InputLayer", "LayerNormalization", "StochasticDepth", "ZeroPadding2D")
_CUT = "#dc2626"
_TIMES = "\u00d7"


def draw(title: str, boxes: Sequence[Box]) -> str:
    """Return the drawing.

    Args:
        title: Such as `ResNet50, 224x224`.
        boxes: From the input to the end.
    """
    stages = list(dict.fromkeys(box.last.shape[1:-1] for box in boxes))
    parts, y = [], _TOP
    for number, box in enumerate(boxes):
        if number:
            middle = _LEFT + _FULL / 2
            # A stack of boxes reaches higher than one.
            end = y - 11 if box.repeats > 1 else y - 3
            parts.append(_line((middle, y - _GAP), (middle, end), "#475569", 'marker-end="url(#arrow)"'))
        parts += _box(box, y, _FILLS[stages.index(box.last.shape[1:-1]) % len(_FILLS)])
        y += _HEIGHT + _GAP
        if box.mark is not None:
            parts += _cut(box, y)
            y += 2 * _GAP + 10
    last = boxes[-1].last
    flops = "operations not known" if last.flops is None else f"{last.flops / 1e9:.2f} billion operations"
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


def _box(box: Box, y: float, fill: str) -> list[str]:
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
    """Narrow as space narrows, so that the network looks like the funnel it is, but wide enough to be read."""
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
    return f'<text x="{x}" y="{y}" font-size="{size}" {written}>{escape(text)}</text>'
