"""The life of a version: sections 2 and 4 of the reference, one server, one model per test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import get_model_status_pb2

from tests.contract.tfserving.requests import floats, images, predict, slow
from tests.contract.tfserving.server_process import Client, ServerProcess, eventually, status_of
from tests.contract.tfserving.tiny_models import expected_early, record_warm_up, write_held, write_tiny

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory that the server follows."""
    models = tmp_path_factory.mktemp("models")
    write_tiny(models / "first" / "1")
    return models


@pytest.fixture(scope="module")
def life(models: Path, socket_directory: Path) -> Iterator[ServerProcess]:
    """Start the server that all tests here share; it looks ten times a second and tries twice."""
    with ServerProcess(
        socket_directory / "life",
        f"--models_dir={models}",
        "--file_system_poll_wait_seconds=0.1",
        "--max_num_load_retries=1",
        "--load_retry_interval_micros=1500000",
    ) as server:
        yield server.ready()


@pytest.fixture
def follower(life: ServerProcess) -> Iterator[Client]:
    """Return a client of that server."""
    with Client(life.address) as client:
        yield client


def _serve(client: Client, model: Path, version: int) -> None:
    """Publish a version and wait until it serves."""
    write_tiny(model / str(version))
    eventually(lambda: client.states(model.name).get(version) == "AVAILABLE", f"{model.name} {version} available")


def _break(model: Path, version: int) -> Path:
    """Publish a version that cannot be loaded."""
    broken = model / str(version)
    broken.mkdir(parents=True)
    return broken


def _error(client: Client, model: str, version: int) -> tuple[int, str]:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = model
    request.model_spec.version.value = version
    (status,) = client.models.GetModelStatus(request, timeout=10).model_version_status
    return status.status.error_code, status.status.error_message


def test_2_a_new_model_is_noticed(follower: Client, models: Path) -> None:
    """Without a restart; before that it is not found."""
    assert grpc.StatusCode.NOT_FOUND is status_of(lambda: follower.predict(predict("noticed")))[0]

    _serve(follower, models / "noticed", 3)

    assert 3 == follower.predict(predict("noticed")).model_spec.version.value


def test_2_a_model_that_goes_is_unloaded(follower: Client, models: Path) -> None:
    """Its entry stays, as END."""
    _serve(follower, models / "leaving", 1)

    shutil.rmtree(models / "leaving")

    eventually(lambda: follower.states("leaving") == {1: "END"}, "unloaded")
    assert (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(leaving)") == status_of(
        lambda: follower.predict(predict("leaving"))
    )


def test_2_a_new_version_takes_over_without_a_failed_request(follower: Client, models: Path) -> None:
    """Latest is always answered, by 1 until it is by 2; then 1 is END and not found."""
    _serve(follower, models / "swap", 1)
    write_tiny(models / "swap" / "2")
    answered = []

    def old_is_gone() -> bool:
        answered.append(follower.predict(predict("swap")).model_spec.version.value)
        return follower.states("swap") == {2: "AVAILABLE", 1: "END"}

    eventually(old_is_gone, "2 serves and 1 has ended")

    assert sorted(answered) == answered
    assert {1, 2} >= set(answered)
    assert (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(swap, 1)") == status_of(
        lambda: follower.predict(predict("swap", version=1))
    )
    pixels = images(2)
    answer = follower.predict(predict("swap", inputs={"images": pixels}))
    assert np.allclose(expected_early(pixels, 2), floats(answer.outputs["early"]), rtol=1e-5)


def test_2_requests_are_answered_while_another_model_is_inside_its_load(
    follower: Client, models: Path, tmp_path: Path
) -> None:
    """The whole load is one call into TensorFlow that does without the interpreter; this one is held in it."""
    release = tmp_path / "release"
    write_held(models / "held" / "1", release)
    eventually(lambda: follower.states("held") == {1: "LOADING"}, "held loads")

    answered = [follower.predict(predict("first"), timeout=10).model_spec.version.value for _ in range(50)]

    assert 50 == len(answered)
    assert {1: "LOADING"} == follower.states("held")
    release.touch()
    eventually(lambda: follower.states("held") == {1: "AVAILABLE"}, "held is loaded")


def test_2_requests_under_way_finish_on_the_version_they_began_with(follower: Client, models: Path) -> None:
    """Version 1 is UNLOADING until its last request is answered."""
    _serve(follower, models / "busy", 1)
    request = slow(10_000, "busy", version=1)
    under_way = follower.prediction.Predict.future(request, timeout=60)

    write_tiny(models / "busy" / "2")

    eventually(lambda: follower.states("busy") == {2: "AVAILABLE", 1: "UNLOADING"}, "1 waits for its request")
    assert not under_way.done()
    assert 1 == under_way.result().model_spec.version.value
    eventually(lambda: follower.states("busy") == {2: "AVAILABLE", 1: "END"}, "1 has ended")


def test_2_a_broken_version_ends_with_its_error_and_the_old_one_serves_on(follower: Client, models: Path) -> None:
    """LOADING with an empty status until the retries are used up, then END with the reason."""
    _serve(follower, models / "broken", 1)
    broken = _break(models / "broken", 2)

    eventually(lambda: follower.states("broken") == {2: "LOADING", 1: "AVAILABLE"}, "2 is tried")
    assert (0, "") == _error(follower, "broken", 2)
    eventually(lambda: follower.states("broken") == {2: "END", 1: "AVAILABLE"}, "2 has ended")
    code, text = _error(follower, "broken", 2)

    assert grpc.StatusCode.NOT_FOUND.value[0] == code
    assert (
        "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
        f"`saved_model.pb`)\nSpecified file path: {broken}"
    ) == text
    assert 1 == follower.predict(predict("broken")).model_spec.version.value


def test_2_a_broken_version_is_tried_again_once_it_was_away(follower: Client, models: Path) -> None:
    """Removing it and publishing it again is the way to repair it."""
    model = models / "mended"
    _serve(follower, model, 1)
    _break(model, 2)
    eventually(lambda: follower.states("mended") == {2: "END", 1: "AVAILABLE"}, "2 has ended")
    for version in ("1", "2"):
        (model / version).rename(model / f".{version}")
    eventually(lambda: follower.states("mended") == {2: "END", 1: "END"}, "it was noticed that both are away")

    write_tiny(model / "2")

    eventually(lambda: follower.states("mended") == {2: "AVAILABLE", 1: "END"}, "2 serves")
    assert (0, "") == _error(follower, "mended", 2)


def test_2_rollback_by_removing_the_newest(follower: Client, models: Path) -> None:
    """Version 1, which had ended, begins again."""
    model = models / "rollback"
    _serve(follower, model, 1)
    _serve(follower, model, 2)
    eventually(lambda: follower.states("rollback") == {2: "AVAILABLE", 1: "END"}, "2 has taken over")

    (model / "2").rename(model / ".gone")

    eventually(lambda: follower.states("rollback") == {2: "END", 1: "AVAILABLE"}, "1 is back")
    assert 1 == follower.predict(predict("rollback")).model_spec.version.value


def test_2_names_that_are_no_numbers_are_no_versions(follower: Client, models: Path) -> None:
    """Whatever is being written beside the versions is not looked at."""
    for name in (".tmp-7", "7a", "latest", "-7"):
        (models / "numbers" / name).mkdir(parents=True)
    _serve(follower, models / "numbers", 5)

    assert {5: "AVAILABLE"} == follower.states("numbers")


def test_4_warm_up_records_run_before_a_version_is_available(
    follower: Client, life: ServerProcess, models: Path
) -> None:
    """Whatever name and version they carry; the log tells how many."""
    version = write_tiny(models / "warm" / "1", warm_up=[predict("another", version=77), predict("tiny", "top")])
    eventually(lambda: follower.states("warm") == {1: "AVAILABLE"}, "available")

    lines = [line for line in life.log.splitlines() if str(version) in line]
    assert any("with 2 records" in line for line in lines[:-1])
    assert "Loaded" in lines[-1]


def test_4_a_failing_warm_up_record_fails_the_load(follower: Client, models: Path) -> None:
    """The version ends with the record's error."""
    write_tiny(models / "cold" / "1", warm_up=[predict(signature="absent")])

    eventually(lambda: follower.states("cold") == {1: "END"}, "ended")

    assert (grpc.StatusCode.FAILED_PRECONDITION.value[0], 'Serving signature key "absent" not found.') == _error(
        follower, "cold", 1
    )


def test_4_a_damaged_warm_up_file_fails_the_load(follower: Client, models: Path) -> None:
    """DATA_LOSS, with a hint."""
    version = write_tiny(models / ".made" / "1")
    record_warm_up(version, [predict()])
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    path.write_bytes(path.read_bytes()[:-10])
    (models / "damaged").mkdir()
    version.rename(models / "damaged" / "1")

    eventually(lambda: follower.states("damaged") == {1: "END"}, "ended")

    code, text = _error(follower, "damaged", 1)
    assert grpc.StatusCode.DATA_LOSS.value[0] == code
    assert text.endswith("Please verify your warmup data is in TFRecord format.")
