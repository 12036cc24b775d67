"""Print what a verification found: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from exporter.findings import Finding


def print_findings(directory: Path, findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print the findings on stdout."""
    ok = all(finding.ok for finding in findings)
    if as_json:
        document = {"directory": str(directory), "ok": ok, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(document, indent=1))  # noqa: T201
        return
    from rich.console import Console  # noqa: PLC0415 -- JSON needs no table
    from rich.table import Table  # noqa: PLC0415

    from exporter.tables import print_table  # noqa: PLC0415

    console = Console(highlight=False)
    console.print(f"{directory}: {'verified' if ok else 'NOT as it should be'}", soft_wrap=True, markup=False)
    table = Table("", "check", "found")
    for finding in findings:
        table.add_row("[green]ok[/]" if finding.ok else "[red]no[/]", finding.check, finding.detail)
    print_table(table, console)
