"""What is said while something takes long."""

from __future__ import annotations

import pytest

from exporter import progress


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
    assert list(progress.counted(range(20), 20, "counting")) == list(range(20))
    assert capsys.readouterr().err.splitlines() == [f"counting {tenth} % ..." for tenth in range(0, 100, 10)]


def test_nothing_is_told_of_what_is_soon_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within the patience there is not a word; after it, how far things are by then."""
    monkeypatch.setattr(progress, "time", Clock())
    assert list(progress.counted(range(3), 3, "counting", patience=10)) == [0, 1, 2]
    assert not capsys.readouterr().err
    assert list(progress.counted(range(10), 10, "counting", patience=5)) == list(range(10))
    assert capsys.readouterr().err.splitlines() == [f"counting {tenth} % ..." for tenth in range(40, 100, 10)]
