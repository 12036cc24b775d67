"""A new version of a model is taken up while requests run, and vectors of two versions are never mixed up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.answers import relative_error, vector
from tests.e2e.conftest import Stack
from tests.e2e.drill import SAME, Drill
from tests.e2e.photos import NAMES, example
from tests.exported_models import SQUASHED, export


def any_ok(name: str, response: httpx.Response) -> str | None:
    """During the change 200 is all that is asked; versions are compared afterwards."""
    return None if response.status_code == httpx.codes.OK else f"{name}: {response.status_code} {response.text[:200]}"


def test_a_new_version_is_taken_up_under_load(
    stack: Stack, models: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """No request fails; each answer's version, fingerprint and vector belong together, cached or not."""
    recipe = tmp_path / "squashed.yaml"
    recipe.write_text(SQUASHED)
    photos = {name: example(name) for name in NAMES}
    with Drill(stack.gateway, photos, any_ok, clients=2) as drill:
        drill.more(30)
        exported = export(recipe, models)
        assert exported.returncode == 0, exported.stderr
        drill.until(lambda tally: tally.answers[-1][1].json().get("version") == 2, "version 2 answers")
        drill.more(30)
    record_property("drill", f"version 2 written under load: {drill.tally}")
    assert (drill.tally.failures, drill.tally.wrong) == ([], [])
    check_belonging([(name, response.json()) for name, response in drill.tally.answers])


def check_belonging(answers: list[tuple[str, dict[str, Any]]]) -> None:
    """Each version has one fingerprint and, for each photo, one vector; and the two versions differ in both."""
    fingerprints = {(answer["version"], answer["fingerprint"]) for _, answer in answers}
    assert sorted(version for version, _ in fingerprints) == [1, 2]
    assert len({fingerprint for _, fingerprint in fingerprints}) == 2
    for photo in NAMES:
        by_version = {
            version: [vector(answer) for name, answer in answers if name == photo and answer["version"] == version]
            for version in (1, 2)
        }
        for vectors in by_version.values():
            assert max(relative_error(one, vectors[0]) for one in vectors) <= SAME
        assert relative_error(by_version[1][0], by_version[2][0]) > 0.01
