"""Calibration and sample images are read as the gateway reads images; see tests/unit/microtome for the pixels."""

from pathlib import Path

import pytest

from exporter.errors import CalibrationImageBroken
from exporter.recipe.images import read_pixels
from exporter.recipe.preprocessing import input_spec


@pytest.mark.parametrize("body", [b"\xff\xd8 no picture", b"", b"text"])
def test_broken_image_is_named(tmp_path: Path, body: bytes) -> None:
    """Among thousands of calibration images the one that cannot be read must be found."""
    (tmp_path / "broken.jpg").write_bytes(body)
    with pytest.raises(CalibrationImageBroken, match=r"broken\.jpg.*Take it out of the folder"):
        read_pixels(tmp_path / "broken.jpg", input_spec(224, 224, shortest_side=256))
