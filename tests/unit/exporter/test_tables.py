"""Tables on a terminal and elsewhere."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.table import Table

from exporter.tables import print_table

LONG = "sha256:" + 64 * "0"


def test_table_in_a_pipe_is_as_wide_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody knows a width, nothing is folded or cut off."""
    table = Table("name", "fingerprint", "source")
    table.add_row("lite0", LONG, 20 * "long ")
    print_table(table)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "lite0" in line]
    assert LONG in line
    assert (20 * "long ").strip() in line


def test_table_on_a_terminal_keeps_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    """No line is longer than the terminal is wide."""
    table = Table("fingerprint")
    table.add_row(LONG)
    print_table(table, Console(force_terminal=True, width=40, color_system=None))
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) == 40
