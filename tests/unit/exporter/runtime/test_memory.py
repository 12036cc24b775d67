"""What an export will take is told before it takes it, where the machine has less."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.head import slicing
from exporter.head.slicing import cut
from exporter.runtime import memory
from tests.unit.exporter.small_models import VECTOR, small_backbone, small_recipe


def test_a_machine_has_some_memory_and_less_than_it_has_in_all() -> None:
    """The kernel tells both, in the same file."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    everything = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal:"))
    there = memory.available()
    assert there is not None
    assert 0 < there < 1024 * everything


@pytest.mark.parametrize(("there", "told"), [(1 << 20, True), (1 << 40, False), (None, False)])
def test_too_little_is_told(
    there: int | None, told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With both numbers; a machine that does not tell is not guessed about."""
    monkeypatch.setattr(slicing, "available", lambda: there)
    slicing.warn_of_memory(cut(small_backbone(), small_recipe(VECTOR)))
    err = capsys.readouterr().err
    assert ("0.6 GB of memory or more, where 0.0 GB" in err) == told == bool(err)
