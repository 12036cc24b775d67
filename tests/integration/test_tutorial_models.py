"""Models of one's own as tutorials write them: what is served of each is what Keras computes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.e2e.processes import Gateway, ModelServer
from tests.exported_models import REPOSITORY
from tests.tutorial_models import SOURCES, TOLERANCE, exported, model_name

SERVED = ("Sequential of augmentation, base and head", "one channel, grey", "four channels, RGB and opacity")


@pytest.mark.parametrize("source", [source for source in SOURCES if source not in SERVED])
def test_export_equals_keras(source: str, tmp_path: Path) -> None:
    """A cut inside a model within the model, and the model's own output."""
    found = exported(source, tmp_path, tmp_path / "models", verified=False)
    assert max(found.errors(found.loaded())) <= TOLERANCE


def test_served_over_http_equals_keras(tmp_path: Path) -> None:
    """Three, channels and all, with the exporter's own check: from a PNG to the numbers of Keras."""
    models = tmp_path / "models"
    found = [exported(source, tmp_path, models) for source in SERVED]
    with tempfile.TemporaryDirectory() as short:
        model_server = ModelServer(Path(short), models)
        gateway = Gateway(Path(short), model_server.address, ",".join(map(model_name, SERVED)))
        try:
            model_server.start()
            gateway.start()
            for one in found:
                assert max(one.errors(one.served(gateway.url))) <= TOLERANCE
        finally:
            gateway.destroy()
            model_server.destroy()


def test_guide_has_all_of_them() -> None:
    """A source that the guide lacks wants `python docs/measure_own_models.py`."""
    page = (REPOSITORY / "docs" / "guides" / "own_models.md").read_text(encoding="utf-8")
    rows = page.partition("<!-- table -->\n")[2].partition("<!-- end of table -->")[0].splitlines()[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(SOURCES)
