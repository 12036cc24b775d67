"""The page of a report: one HTML file with its style and its script, charts as SVG, tables, and photos as data."""

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from microtome.preprocessing import as_image

_WIDTH, _HEIGHT = 640, 360
"""Units of a chart: small, so that text is legible where a chart is as wide as a phone."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 24, 58
_LABEL_GAP = 22
_TICK_GAP = 70


DEPTHS = ((0.0, "first"), (0.5, "middle"), (1.0, "last"))
"""Ticks of an axis of layers."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a scatter chart.

    Attributes:
        x: Positive.
        y: The figure.
        interval: Of the figure; drawn if `marked` or `front`.
        radius: In pixels.
        title: Shown when pointed at.
        kind: `dot`, `front`, `recommended`, `best` or `default`.
        label: Shown beside it; empty for none.
    """

    x: float
    y: float
    interval: tuple[float, float]
    radius: float
    title: str
    kind: str = "dot"
    label: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """The coordinates of a chart."""

    x: tuple[float, float]
    y: tuple[float, float]
    logarithmic: bool = False

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point, in pixels."""
        low, high = self.x
        share = (
            math.log(x / low) / max(math.log(high / low), 1e-9)
            if self.logarithmic
            else (x - low) / max(high - low, 1e-9)
        )
        part = (y - self.y[0]) / max(self.y[1] - self.y[0], 1e-9)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)


def scatter(points: Sequence[Point], x_title: str, y_title: str, chance: float) -> str:
    """Return points over a logarithmic axis, those of interest with error bars and labels."""
    shown = [point for point in points if point.x > 0]
    if not shown:
        return ""
    ends = [end for point in shown if point.kind != "dot" for end in point.interval]
    values = [*(point.y for point in shown), *ends, chance]
    low, high = min(point.x for point in shown), max(point.x for point in shown)
    frame = Frame(
        (low / 1.15, high * 1.3), (max(0, min(values) - 0.02), min(1.02, max(values) + 0.02)), logarithmic=True
    )
    ticks = [(step * 10**power) for power in range(-2, 13) for step in (1, 2, 5) if low <= step * 10**power <= high]
    parts = [_axes(frame, [(tick, short(tick)) for tick in ticks], x_title, y_title), _chance(frame, chance)]
    order = {"dot": 0, "front": 1, "default": 2, "best": 3, "recommended": 4}
    for point in sorted(shown, key=lambda point: order[point.kind]):
        x, y = frame.at(point.x, point.y)
        if point.kind != "dot":
            (_, bottom), (_, top) = (frame.at(point.x, end) for end in point.interval)
            caps = f"M{x - 4:.1f} {bottom:.1f}h8M{x - 4:.1f} {top:.1f}h8"
            parts.append(f'<path class="bar" d="M{x:.1f} {bottom:.1f}V{top:.1f}{caps}"/>')
        parts.append(
            f'<circle class="dot {point.kind}" cx="{x:.1f}" cy="{y:.1f}" r="{point.radius:.1f}">'
            f"<title>{escape(point.title)}</title></circle>"
        )
    parts += _labels(frame, [point for point in shown if point.label])
    return _svg(parts, f"{y_title} over {x_title}")


def lines(
    series: Sequence[tuple[str, Sequence[tuple[float, float, str]]]],
    x_title: str,
    y_title: str,
    chance: float | None = None,
    ticks: Sequence[tuple[float, str]] = DEPTHS,
) -> str:
    """Return a line for each series of (x, y, title), and a legend.

    Args:
        series: Name and points of each line, x from 0 to 1.
        x_title: Of the horizontal axis.
        y_title: Of the vertical axis.
        chance: What is reached without information; None where that means nothing.
        ticks: Places and texts on the horizontal axis.
    """
    values = [y for _, points in series for _, y, _ in points]
    if not values:
        return ""
    lowest = min(values) if chance is None else min(*values, chance)
    frame = Frame((0, 1), (max(0, lowest - 0.02), max(values) + 0.02))
    parts = [_axes(frame, ticks, x_title, y_title)]
    parts += [] if chance is None else [_chance(frame, chance)]
    legend = []
    for index, (name, points) in enumerate(series):
        places = [frame.at(x, y) for x, y, _ in points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        colour = f"c{index % 6}"
        parts.append(f'<path class="line {colour}" d="M{path}"/>')
        parts += [
            f'<circle class="{colour}" fill="transparent" cx="{x:.1f}" cy="{y:.1f}" r="2.8">'
            f"<title>{escape(title)}</title></circle>"
            for (x, y), (_, _, title) in zip(places, points, strict=True)
        ]
        legend.append(
            f'<span><svg viewBox="0 0 24 6"><path class="line {colour}" d="M0 3H24"/></svg>{escape(name)}</span>'
        )
    return f'<div class="legend">{"".join(legend)}</div>' + _svg(parts, f"{y_title} over {x_title}")


def short(number: float) -> str:
    """Write a large number shortly: 390,000,000 as 390 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def _labels(frame: Frame, points: Sequence[Point]) -> list[str]:
    """Place labels beside their points, one below the other where they would meet."""
    parts: list[str] = []
    taken: list[float] = []
    for point in sorted(points, key=lambda point: -point.y):
        x, y = frame.at(point.x, point.y)
        left = x > _WIDTH * 0.5
        place = y - point.radius - 6
        while any(abs(place - other) < _LABEL_GAP for other in taken):
            place += _LABEL_GAP / 2
        taken.append(place)
        at = x - point.radius - 8 if left else x + point.radius + 8
        anchor = "end" if left else "start"
        parts.append(
            f'<text class="name {point.kind}" x="{at:.1f}" y="{place:.1f}" text-anchor="{anchor}">'
            f"{escape(point.label)}</text>"
        )
    return parts


def _axes(frame: Frame, ticks: Sequence[tuple[float, str]], x_title: str, y_title: str) -> str:
    low, high = frame.y
    steps = (step * 10.0**power for power in range(-12, 31) for step in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step <= 8)
    parts = []
    for index in range(math.ceil(low / step), math.floor(high / step) + 1):
        _, y = frame.at(frame.x[0] or 0, index * step)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(
            f'<text class="axis" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_tick(index * step, step)}</text>'
        )
    last = -math.inf
    for tick, text in ticks:
        x, _ = frame.at(tick, low)
        if x - last < _TICK_GAP:
            continue
        last = x
        parts.append(f'<path class="grid" d="M{x:.1f} {_HEIGHT - _BOTTOM}v5"/>')
        place = f'x="{x:.1f}" text-anchor="{"end" if x > _WIDTH - _RIGHT - 20 else "middle"}"'
        parts.append(f'<text class="axis" {place} y="{_HEIGHT - _BOTTOM + 22}">{text}</text>')
    parts.append(
        f'<text class="axis" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{escape(x_title)}</text>'
    )
    parts.append(f'<text class="axis" x="4" y="{_TOP - 14}">{escape(y_title)}</text>')
    return "".join(parts)


def _tick(value: float, step: float) -> str:
    """Write a number of an axis: shares with two digits, large numbers with none."""
    if step >= 1 and abs(value) >= 1e4:
        return f"{value:.3g}"
    return f"{value:.{max(0, -math.floor(math.log10(step)))}f}" if step < 0.01 or step >= 1 else f"{value:.2f}"


def dots(points: Sequence[tuple[float, float, str]], x_title: str, y_title: str) -> str:
    """Return points of (x, y, title) over axes of one scale, and the line on which both are equal."""
    values = [value for x, y, _ in points for value in (x, y)]
    if not values:
        return ""
    low, high = min(values), max(values)
    gap = 0.04 * (high - low) or 1.0
    frame = Frame((low - gap, high + gap), (low - gap, high + gap))
    step = 10 ** math.floor(math.log10((high - low + 2 * gap) / 2))
    ticks = [(index * step, _tick(index * step, step)) for index in range(math.ceil(low / step), int(high // step) + 1)]
    parts = [_axes(frame, ticks, x_title, y_title)]
    (left, bottom), (right, top) = frame.at(low, low), frame.at(high, high)
    parts.append(f'<path class="chance" d="M{left:.1f} {bottom:.1f}L{right:.1f} {top:.1f}"/>')
    for x, y, title in points:
        across, up = frame.at(x, y)
        parts.append(
            f'<circle class="dot recommended" fill-opacity=".6" cx="{across:.1f}" cy="{up:.1f}" r="3.2">'
            f"<title>{escape(title)}</title></circle>"
        )
    return _svg(parts, f"{y_title} over {x_title}")


def _chance(frame: Frame, chance: float) -> str:
    if not frame.y[0] <= chance <= frame.y[1]:
        return ""
    _, y = frame.at(frame.x[0] or 0, chance)
    line = f'<path class="chance" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
    return f'{line}<text class="axis" x="{_LEFT + 6}" y="{y - 5:.1f}">chance</text>'


def _svg(parts: Sequence[str], title: str) -> str:
    inner = "\n".join(parts)
    box = f"0 -8 {_WIDTH} {_HEIGHT + 8}"
    return f'<div class="wide"><svg viewBox="{box}" role="img" aria-label="{escape(title)}">\n{inner}\n</svg></div>'


_PHOTO = 80
_QUALITY = 50
_SMALL = 24


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole HTML document.

    Args:
        title: Plain text.
        parts: HTML, below the title.
    """
    here = files(__package__)
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    # The policy is what makes "no network" true, whatever a file's name or a label holds.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + f"\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str | tuple[str, float | None]]]]) -> str:
    """Return a table that sorts by the column that is clicked at.

    Args:
        columns: Headings.
        rows: The class of each row, and its cells: text, or text with the number that it sorts by.
    """
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = []
    for kind, cells in rows:
        shown = "".join(
            f"<td>{escape(cell)}</td>"
            if isinstance(cell, str)
            else f'<td data-value="{"" if cell[1] is None else cell[1]}">{escape(cell[0])}</td>'
            for cell in cells
        )
        lines.append(f'<tr class="{kind}">{shown}</tr>')
    body = "\n".join(lines)
    whole = f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody>"
    return f'<div class="wide"><table class="sortable">{whole}</table></div>'


def confusion(title: str, classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Return a confusion matrix: a row for each true class, a column for each predicted one."""
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in classes)
    lines = []
    for name, row in zip(classes, counts, strict=True):
        total = max(sum(row), 1)
        cells = "".join(f'<td style="--share: {count / total:.2f}">{count or ""}</td>' for count in row)
        lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><div class="wide"><table class="matrix">'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></figure>"
    )


def photo(path: Path, caption: str, kind: str = "") -> str:
    """Return a small copy of a photo with a caption; a photo that cannot be read is grey."""
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (2 * _PHOTO, 2 * _PHOTO))
            image = ImageOps.fit(ImageOps.exif_transpose(opened).convert("RGB"), (_PHOTO, _PHOTO))
    except (OSError, ValueError, SyntaxError):
        image = Image.new("RGB", (_PHOTO, _PHOTO), "grey")
    shown = escape(caption)
    return f'<figure class="photo {kind}" title="{shown}"><img alt="{shown}" src="{_data(image)}">{shown}</figure>'


def picture(pixels: NDArray[np.uint8], title: str) -> str:
    """Return a picture at its own size, such as a heat map.

    Args:
        pixels: [height, width, channels].
        title: Shown when pointed at, and read out.
    """
    shown = escape(title)
    return f'<img alt="{shown}" title="{shown}" src="{_data(as_image(pixels))}">'


def _data(image: Image.Image) -> str:
    """Return an image as an address that holds it; small ones without loss, where it would show most."""
    encoded = BytesIO()
    image.save(encoded, "WEBP", quality=_QUALITY, method=6, lossless=max(image.size) <= _SMALL)
    return f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"
