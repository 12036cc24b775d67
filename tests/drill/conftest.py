"""Prints what the drill counted after each step, which is known only when the step's fixtures have ended."""

import pytest

from tests.e2e.conftest import directory, models, module_stack, stack

__all__ = ["directory", "models", "module_stack", "stack"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts before the closing line."""
    reports = [report for kind in ("", "error") for report in terminalreporter.stats.get(kind, [])]
    lines = [str(value) for report in reports for name, value in report.user_properties if name == "drill"]
    if lines:
        terminalreporter.section("the whole system")
        for line in dict.fromkeys(lines):
            terminalreporter.write_line(line)
