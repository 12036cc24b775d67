"""A new version of a model is taken up while requests run, and vectors of two versions are never mixed up."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.e2e.answers import relative_error, vector
from tests.e2e.conftest import Stack
from tests.e2e.drill import SAME, Drill
from tests.e2e.photos import NAMES, example
from tests.e2e.processes import Gateway, eventually
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


def listed(gateway: Gateway) -> dict[str, bool]:
    """Where the gateway names a second model, `other`."""
    with gateway.client() as client:
        ways = {
            "/models": [model["name"] for model in client.get("/models").json()["models"]],
            "/v1/models": [model["id"] for model in client.get("/v1/models").json()["data"]],
            "/v2/models": client.get("/v2/models").json()["models"],
            "/readyz": client.get("/readyz").json()["models"],
            "/metrics": client.get("/metrics").text,
        }
    found = {
        way: ('model_ready{model="other"} 1.0' if way == "/metrics" else "other") in has for way, has in ways.items()
    }
    return {**found, "/models/other": httpx.get(f"{gateway.url}/models/other", trust_env=False).is_success}


def test_a_model_is_added_and_removed_under_load(
    stack: Stack, models: Path, record_property: Callable[[str, object], None]
) -> None:
    """MICROTOME_MODELS has a pattern: each list follows the model server, and requests to the first model go on."""
    draft, photo = models / ".other", example(NAMES[0])
    shutil.copytree(models / "lite0" / "1", draft / "1", copy_function=os.link)

    def ask() -> httpx.Response:
        return httpx.post(f"{stack.gateway.url}/embed?model=other", content=photo, timeout=60, trust_env=False)

    with (
        Drill(stack.gateway, {NAMES[0]: photo}, any_ok, clients=1) as drill,
        grpc.insecure_channel(stack.gateway.grpc) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="other"), timeout=100)
        status = health_pb2.HealthCheckResponse
        assert next(watch).status == status.SERVICE_UNKNOWN
        assert (ask().status_code, set(listed(stack.gateway).values())) == (404, {False})
        draft.rename(models / "other")
        eventually(lambda: all(listed(stack.gateway).values()), "the model is listed everywhere", 60)
        answer = ask()
        assert (answer.status_code, answer.json()["model"]) == (200, "other"), answer.text
        while next(watch).status != status.SERVING:
            pass
        (models / "other").rename(models / ".gone")
        eventually(lambda: ask().status_code == httpx.codes.NOT_FOUND, "the model is gone", 60)
        eventually(lambda: not any(listed(stack.gateway).values()), "the model is listed nowhere")
        while next(watch).status != status.SERVICE_UNKNOWN:
            pass
        drill.more(5)
    record_property("drill", f"a model added and removed under load: {drill.tally}")
    assert (drill.tally.failures, drill.tally.wrong) == ([], [])


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
