"""Print a benchmark: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from exporter.benchmark import BenchRow
from exporter.tables import print_table


def print_rows(rows: Sequence[BenchRow], *, as_json: bool) -> None:
    """Print the rows on stdout."""
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))  # noqa: T201
        return
    table = Table(
        "output", "batch", "ms", "images/s", "plain ms", "times faster", "middle half", "by processor", "turns"
    )
    for row in rows:
        table.add_row(
            row.output,
            str(row.batch),
            f"{row.milliseconds:.1f}",
            f"{row.images_per_second:.1f}",
            f"{row.plain_milliseconds:.1f}",
            f"{row.ratio:.2f}",
            f"{row.spread[0]:.2f} to {row.spread[1]:.2f}",
            f"{row.cpu_ratio:.2f}",
            str(row.turns),
        )
    print_table(table)
