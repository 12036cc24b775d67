"""The gateway refuses to start with a variable that it does not know, so none such may stand under deploy/."""

import re

import pytest

from service.settings import PREFIX, Settings
from tests.exported_models import REPOSITORY

KNOWN = {PREFIX + name.upper() for name in Settings.model_fields}

FILES = sorted(
    path
    for place in (REPOSITORY / "deploy", REPOSITORY / "Dockerfile")
    for path in ([place] if place.is_file() else place.rglob("*"))
    if path.suffix in {".yaml", ".yml", ".env", ".py", ".sh", ".md", ""} and path.is_file()
)


def variables(path: str) -> set[str]:
    """The gateway's variables in a file."""
    return set(re.findall(rf"\b{PREFIX}[A-Z][A-Z_]*\b", (REPOSITORY / path).read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", [str(path.relative_to(REPOSITORY)) for path in FILES])
def test_every_variable_is_a_setting(path: str) -> None:
    """Nothing is misspelt. Kubernetes must not set MICROTOME_GATEWAY_PORT, as a comment says; rollouts have a key."""
    assert set() == variables(path) - KNOWN - {"MICROTOME_GATEWAY_PORT", "MICROTOME_API_KEY"}


def test_variables_are_found() -> None:
    """The search would find a misspelt one: it finds those that are there."""
    assert {"MICROTOME_MODEL_SERVER", "MICROTOME_DRAIN"} <= variables("deploy/kubernetes/base/gateway.env")
    assert {"MICROTOME_MODELS"} <= variables("deploy/recipe/gateway.env")
