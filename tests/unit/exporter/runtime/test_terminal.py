"""Progress, and tables on a terminal and elsewhere."""

from __future__ import annotations

import pytest
from rich.console import Console

from exporter.runtime import terminal

LONG = "sha256:" + 64 * "0"


class Clock:
    """Goes on by a second whenever it is asked."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Tell the time in seconds."""
        self.now += 1
        return self.now


def test_every_tenth_is_told_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    """And every item comes, in order."""
    assert list(terminal.counted(range(20), 20, "counting")) == list(range(20))
    assert capsys.readouterr().err.splitlines() == [f"counting {tenth} % ..." for tenth in range(0, 100, 10)]


def test_nothing_is_told_of_what_is_soon_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within the delay there is not a word; after it, how far things are by then."""
    monkeypatch.setattr(terminal, "time", Clock())
    assert list(terminal.counted(range(3), 3, "counting", delay=10)) == [0, 1, 2]
    assert not capsys.readouterr().err
    assert list(terminal.counted(range(10), 10, "counting", delay=5)) == list(range(10))
    lines = ["counting 40 % ..."]
    lines += [
        f"counting {tenth} % ... 0:00:{left:02} to go" for tenth, left in ((50, 10), (60, 6), (70, 4), (80, 2), (90, 1))
    ]
    assert capsys.readouterr().err.splitlines() == lines


def test_a_long_tenth_has_lines_of_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One each half minute, with the time that is left: in a log too it is seen that things go on."""
    monkeypatch.setattr(terminal, "time", Clock())
    assert len(list(terminal.counted(range(20_000), 20_000, "counting"))) == 20_000
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["counting 0 % ...", "counting 0 % ... 5:43:56 to go", "counting 0 % ... 5:37:52 to go"]
    assert len(lines) > 600


NAME = "conv[/] \x1b[2J\u202e"


def test_names_are_shown_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of a model that strangers made do not move the cursor, and are no markup."""
    with terminal.stage(f"cutting at {NAME}"):
        terminal.warn(f"{NAME} is odd")
    assert list(terminal.counted([1], 1, NAME)) == [1]
    console = Console(force_terminal=True, width=80, color_system=None)
    terminal.print_table(["layer"], [[NAME]], console=console)
    printed = capsys.readouterr()
    for text in (printed.err, printed.out):
        assert r"conv[/] \x1b[2J\u202e" in text
        assert "\x1b[2J" not in text


def test_names_are_shown_escaped_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of stages and bars."""
    monkeypatch.setattr(terminal, "_stderr", lambda: Console(stderr=True, force_terminal=True, color_system=None))
    with terminal.stage(NAME):
        assert list(terminal.counted([1, 2], 2, NAME)) == [1, 2]
    text = capsys.readouterr().err
    assert r"conv[/] \x1b[2J\u202e" in text
    assert "\x1b[2J" not in text


def test_table_in_a_pipe_is_as_wide_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there is no width, so nothing is folded or cut off."""
    terminal.print_table(("name", "fingerprint", "source"), [("lite0", LONG, 20 * "long ")])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "lite0" in line]
    assert LONG in line
    assert (20 * "long ").strip() in line


def test_table_on_a_terminal_keeps_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    """No line is longer than the terminal is wide."""
    console = Console(force_terminal=True, width=40, color_system=None)
    terminal.print_table(["fingerprint"], [[LONG]], console=console)
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) == 40
