"""Models of one's own as tutorials write them: what is served of each is what Keras computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tutorial_models import END, PAGE, SOURCES, START, TOLERANCE, compared


@pytest.mark.parametrize("source", SOURCES)
def test_export_equals_keras(source: str, tmp_path: Path) -> None:
    """A cut inside a model within the model, and the model's own output; the first with the exporter's own check."""
    found = compared(source, tmp_path, verified=source == next(iter(SOURCES)))
    assert max(found.errors) <= TOLERANCE


def test_guide_has_all_of_them() -> None:
    """A source that the guide lacks wants `python -m tests.tutorial_models`."""
    rows = PAGE.read_text(encoding="utf-8").partition(START)[2].partition(END)[0].splitlines()[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(SOURCES)
