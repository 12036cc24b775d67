"""Every kind of request at once while Redis and the model server freeze, die and return: each vector is right."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.answer_forms import FORMS
from tests.e2e.mixed_run import run, running

REQUESTS = 600


@pytest.mark.timeout(300)
def test_every_vector_of_a_mixed_run_equals_its_reference(
    directory: Path, lite0_models: Path, record_property: Callable[[str, object], None]
) -> None:
    """Whatever is asked for and whatever breaks meanwhile: no failure, no wrong vector, no wrong version."""
    with running(directory, lite0_models) as stack:
        mixture = run(stack, REQUESTS)
    record_property("drill", f"mixed run: {mixture} {mixture.failed[:3]} {mixture.wrong[:3]}")
    assert ([], []) == (mixture.failed, mixture.wrong)
    assert {httpx.codes.OK: REQUESTS} == mixture.statuses
    assert {"hit", "miss"} <= set(mixture.caches)
    assert {f"{form.accept} {form.encoding}" for form in FORMS} == set(mixture.forms)
