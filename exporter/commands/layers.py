"""`microtome layers`: where a backbone can be cut, and what a cut there means."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from exporter.commands.arguments import add_backbone_to, built_tower
from microtome.errors import shown

if TYPE_CHECKING:
    from exporter.graph.cut_points import CutPoint

_COLUMNS = ("index", "layer", "type", "output", "params", "flops", "field", "stride", "dim", "crossing")
_LEFT_ALIGNED = range(1, 4)
_LEGEND = (
    "params, flops: of all that is needed up to here. field: pixels that a position sees; + and, through a gate, the "
    "whole image. dim: after average pooling. crossing: tensors that an edge cut here crosses; 1 is clean."
)


DESCRIPTION = (
    "List where a backbone can be cut: output shape, weights and operations up to there, what a position sees, and "
    "how many tensors an edge cut there crosses."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_backbone_to(parser, towers=True)
    parser.add_argument("--all", action="store_true", help="every layer, not only where blocks end")
    parser.add_argument("--find", metavar="TEXT", help="only layers with this text in their name or type")
    parser.add_argument("--json", action="store_true", help="JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print one line for each cut point."""
    with built_tower(arguments) as (built, _):
        from exporter.graph.cut_points import cut_points, default_cut  # noqa: PLC0415

        points = cut_points(built.model)
    usual = default_cut(points)
    chosen = _chosen(points, every=arguments.all, find=arguments.find)
    if arguments.json:
        print(json.dumps([_to_json(point, usual) for point in chosen], indent=1))  # noqa: T201
    elif sys.stdout.isatty():
        _print_table(chosen)
        if usual is not None:
            print(f"The usual cut, the last feature map before the classifier: {shown(usual.ref)}")  # noqa: T201
        if len(chosen) < len(points):
            why = (
                f"with {arguments.find!r}"
                if arguments.find is not None
                else "where blocks end. --all shows every layer"
            )
            print(f"{len(chosen)} of {len(points)} cut points: {why}.")  # noqa: T201
    else:
        _print_columns(chosen)
    return 0


def _chosen(points: Sequence[CutPoint], *, every: bool, find: str | None) -> list[CutPoint]:
    """Return the points with a text in their name or type, in any case; without a text block ends, or every point."""
    if find is not None:
        return [point for point in points if find.casefold() in f"{point.ref} {point.kind}".casefold()]
    return [point for point in points if every or point.block_end]


def _to_json(point: CutPoint, usual: CutPoint | None) -> dict[str, Any]:
    """Return a point as JSON: pixels as [height, width], unknown and missing values as null."""
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


def _print_table(points: Sequence[CutPoint]) -> None:
    """Print a table that fits the terminal."""
    from rich.console import Console  # noqa: PLC0415 -- not needed in a pipe
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(caption=_LEGEND, caption_justify="left", header_style="bold", box=None, row_styles=["", "dim"])
    for index, title in enumerate(_COLUMNS):
        # A narrow terminal wraps the types first.
        table.add_column(title, justify="left" if index in _LEFT_ALIGNED else "right", no_wrap=title != "type")
    for point in points:
        table.add_row(*map(Text, _cells(point, _short)))
    Console().print(table)


def _print_columns(points: Sequence[CutPoint]) -> None:
    """Print aligned columns with exact numbers."""
    rows = [_COLUMNS, *(_cells(point, lambda number: f"{number:,}") for point in points)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        aligned = [
            text.ljust(width) if index in _LEFT_ALIGNED else text.rjust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(aligned).rstrip())  # noqa: T201 -- the command's result


def _cells(point: CutPoint, number: Callable[[int], str]) -> tuple[str, ...]:
    field = point.field
    seen = _sides(field.size) if field.size else "whole" if field.whole else "?"
    return (
        "-" if point.index is None else str(point.index),
        shown(point.ref),
        shown(point.kind),
        "x".join("N" if side is None else str(side) for side in point.shape),
        number(point.params),
        "?" if point.flops is None else number(point.flops),
        f"{seen}+" if field.size and field.whole else seen,
        _sides(field.stride) if field.stride else "-",
        "?" if point.dimension is None else str(point.dimension),
        str(point.crossing),
    )


def _short(number: int) -> str:
    """Write a large number with about three digits: 939,120 as 939 k."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.{2 - len(str(int(number / size))) + 1}f} {unit}"
    return str(number)


def _sides(sides: tuple[Any, Any]) -> str:
    return str(sides[0]) if sides[0] == sides[1] else f"{sides[0]}x{sides[1]}"
