"""The time that is left."""

import pytest

from bench.__main__ import Progress, clock


def test_each_step_is_told_and_the_rest_estimated(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything has run by the plan, then at the pace seen: steps that took no time leave none."""
    progress = Progress({"hits": 60.0, "misses": 30.0})
    assert 90.0 == progress.left()
    with progress.step("hits"):
        pass
    assert progress.left() < 1.0
    with progress.step("misses"):
        pass
    told = capsys.readouterr().out.splitlines()
    assert "[1 of 2] hits, about 1:00; 1:30 left in all" == told[0]
    assert "    hits took 0:00" == told[1]
    assert told[2].startswith("[2 of 2] misses, about 0:30; 0:0")


def test_a_step_that_fails_counts_as_done() -> None:
    """Its time is behind us all the same."""
    progress = Progress({"hits": 60.0})

    def fail() -> None:
        with progress.step("hits"):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert 0.0 == progress.left()


def test_seconds_are_written_as_a_clock_shows_them() -> None:
    """Minutes and two digits."""
    assert "20:05" == clock(1205.9)
