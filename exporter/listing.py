"""Show where a backbone can be cut: a table on a terminal, columns in a pipe, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from exporter.anatomy.default_cut import default_cut
from exporter.anatomy.facts import CutPoint

_HEAD = ("index", "layer", "type", "output", "params", "flops", "field", "stride", "dim", "crossing")
_TEXTUAL = 3
_LEGEND = (
    "params, flops: of all that is needed up to here. field: pixels that a position sees; + and, through a gate, the "
    "whole image. dim: after average pooling. crossing: tensors that an edge cut here crosses; 1 is clean."
)


def chosen(points: Sequence[CutPoint], *, every: bool, find: str | None) -> list[CutPoint]:
    """Return the points to show.

    Args:
        points: All of them.
        every: Not only where blocks end.
        find: Only where this text occurs in the name or the type, in any case; looks through all points.
    """
    if find is not None:
        return [point for point in points if find.casefold() in f"{point.ref} {point.kind}".casefold()]
    return [point for point in points if every or point.block_end]


def show(points: Sequence[CutPoint], all_points: Sequence[CutPoint], find: str | None) -> None:
    """Print points for a person, or in plain columns when standard output is not a terminal.

    Args:
        points: What to show.
        all_points: All that there are.
        find: What was looked for, if anything was.
    """
    if sys.stdout.isatty():
        _show_table([_cells(point, _short) for point in points])
        usual = default_cut(all_points)
        if usual is not None:
            print(f"The usual cut, the last feature map before the classifier: {usual.ref}")  # noqa: T201
        if len(points) < len(all_points):
            why = f"with {find!r}" if find is not None else "where blocks end. --all shows every layer"
            print(f"{len(points)} of {len(all_points)} cut points: {why}.")  # noqa: T201
        return
    table = [_HEAD, *(_cells(point, lambda number: f"{number:,}") for point in points)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(_HEAD))]
    for cells in table:
        aligned = [
            text.ljust(width) if 0 < column <= _TEXTUAL else text.rjust(width)
            for column, (text, width) in enumerate(zip(cells, widths, strict=True))
        ]
        print("  ".join(aligned).rstrip())  # noqa: T201 -- the command's result


def show_json(points: Sequence[CutPoint], all_points: Sequence[CutPoint]) -> None:
    """Print points as a JSON array of objects."""
    usual = default_cut(all_points)
    print(json.dumps([_to_json(point, usual) for point in points], indent=1))  # noqa: T201


def _to_json(point: CutPoint, usual: CutPoint | None) -> dict[str, Any]:
    """Return a point as JSON: pixels as [height, width], what is not known or not there as null."""
    return {
        "index": point.index,
        "name": point.ref,
        "type": point.kind,
        "shape": list(point.shape),
        "params": point.params,
        "flops": point.flops,
        "receptive_field": list(point.field.size) if point.field.size else None,
        "sees_whole_image": point.field.whole if point.field.known else None,
        "stride": [float(side) for side in point.field.stride] if point.field.stride else None,
        "dimension": point.dimension,
        "crossing": point.crossing,
        "block_end": point.block_end,
        "default_cut": point is usual,
    }


def _show_table(rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console  # noqa: PLC0415 -- not needed in a pipe
    from rich.table import Table  # noqa: PLC0415

    table = Table(caption=_LEGEND, caption_justify="left", header_style="bold", box=None, row_styles=["", "dim"])
    for column, title in enumerate(_HEAD):
        # On a narrow terminal the types are what can be done without.
        table.add_column(title, justify="left" if 0 < column <= _TEXTUAL else "right", no_wrap=title != "type")
    for cells in rows:
        table.add_row(*cells)
    Console().print(table)


def _cells(point: CutPoint, number: Callable[[int], str]) -> tuple[str, ...]:
    field = point.field
    seen = _sides(field.size) if field.size else "whole" if field.whole else "?"
    return (
        "-" if point.index is None else str(point.index),
        point.ref,
        point.kind,
        "x".join("N" if side is None else str(side) for side in point.shape),
        number(point.params),
        "?" if point.flops is None else number(point.flops),
        f"{seen}+" if field.size and field.whole else seen,
        _sides(field.stride) if field.stride else "-",
        "?" if point.dimension is None else str(point.dimension),
        str(point.crossing),
    )


def _short(number: int) -> str:
    """Write a large number in three places or so: 939,120 as 939 k."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.{2 - len(str(int(number / size))) + 1}f} {unit}"
    return str(number)


def _sides(sides: tuple[Any, Any]) -> str:
    return str(sides[0]) if sides[0] == sides[1] else f"{sides[0]}x{sides[1]}"
