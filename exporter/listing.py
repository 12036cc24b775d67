"""Show the layers that a backbone can be cut at."""

from __future__ import annotations

from exporter.backbones import find_backbone
from exporter.building import build
from exporter.progress import stage
from exporter.tensors import LayerRow, list_layers


def layers_of(backbone: str) -> list[LayerRow]:
    """List the layers of a backbone at its own input size.

    Raises:
        UnknownBackbone: There is no such backbone.
    """
    row = find_backbone(backbone)
    with stage(f"Building {row.name}"):
        return list_layers(build(row, "random", row.preprocessing).model)


def print_layers(rows: list[LayerRow]) -> None:
    """Print one line for each layer: name, type, output shape, in columns."""
    table = [("layer", "type", "output"), *((row.ref, row.kind, _shape(row.shape)) for row in rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(2)]
    for ref, kind, shape in table:
        print(f"{ref:<{widths[0]}}  {kind:<{widths[1]}}  {shape}")  # noqa: T201 -- the command's result


def _shape(shape: tuple[int | None, ...]) -> str:
    return "x".join("N" if side is None else str(side) for side in shape)
