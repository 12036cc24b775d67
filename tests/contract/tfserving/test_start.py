"""How the server starts, and how it refuses to: sections 0.6, 2 and 5 of the reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.contract.tfserving.requests import predict
from tests.contract.tfserving.server_process import Client, ServerProcess, eventually, status_of
from tests.contract.tfserving.tiny_models import write_held, write_tiny

Start = Callable[..., ServerProcess]

QUICK = ("--file_system_poll_wait_seconds=0.1", "--max_num_load_retries=0")


def test_2_a_missing_base_path_is_complained_of_and_waited_for(start: Start, tmp_path: Path) -> None:
    """Nothing listens until the model is there; then it is served without a restart."""
    server = start(f"--model_base_path={tmp_path / 'late'}", "--model_name=late", *QUICK)
    eventually(lambda: f"Could not find base path for servable late: {tmp_path / 'late'}" in server.log, "said so", 60)
    assert not server.socket.exists()

    write_tiny(tmp_path / "late" / "4")

    with Client(server.ready().address) as client:
        assert {4: "AVAILABLE"} == client.states("late")


def test_1_3_label_map_never_initialised(start: Start, tmp_path: Path) -> None:
    """UNAVAILABLE, as in the real server, but since nothing listens: labels are read before the first call is taken.

    So the row's text, "Model labels does not init yet", cannot be had from this server.
    """
    release = tmp_path / "release"
    write_held(tmp_path / "held" / "1", release)
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "held" base_path: "{tmp_path / "held"}" model_platform: "tensorflow" '
        'version_labels { key: "stable" value: 1 } } }'
    )
    server = start(f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models", *QUICK)
    wrong = predict("held", inputs={}, label="absent")
    with Client(server.address) as client:
        assert grpc.StatusCode.UNAVAILABLE is status_of(lambda: client.predict(wrong))[0]

    release.touch()

    with Client(server.ready().address) as client:
        assert (grpc.StatusCode.INVALID_ARGUMENT, "Unrecognized servable version label: absent") == status_of(
            lambda: client.predict(wrong)
        )
        known = predict("held", inputs={"x": np.ones(1, np.float32)}, label="stable")
        assert 1 == client.predict(known).model_spec.version.value


def test_2_a_model_that_does_not_load_fails_the_start(start: Start, tmp_path: Path) -> None:
    """With the real server's words, and a status other than zero."""
    (tmp_path / "broken" / "2").mkdir(parents=True)

    server = start(f"--model_base_path={tmp_path / 'broken'}", "--model_name=broken", *QUICK)

    assert 1 == server.exit_status()
    assert (
        "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: "
        "{{{name: broken version: 2} due to error: NOT_FOUND: Specified file path does not appear"
    ) in server.log


def test_2_specific_versions_and_several_latest(start: Start, tmp_path: Path) -> None:
    """Policies of the configuration file: what is missing is not waited for."""
    for version in (1, 2, 3):
        write_tiny(tmp_path / "tiny" / str(version))
    config = tmp_path / "models.config"
    entry = 'config {{ name: "{}" base_path: "{}" model_platform: "tensorflow" model_version_policy {{ {} }} }}'
    policies = {"some": "specific { versions: 1 versions: 3 versions: 9 }", "two": "latest { num_versions: 2 }"}
    entries = "\n".join(entry.format(name, tmp_path / "tiny", policy) for name, policy in policies.items())
    config.write_text(f"model_config_list {{ {entries} }}")

    with Client(start(f"--model_config_file={config}").ready().address) as client:
        eventually(lambda: client.states("some") == {3: "AVAILABLE", 1: "AVAILABLE"}, "1 and 3 serve")
        eventually(lambda: client.states("two") == {3: "AVAILABLE", 2: "AVAILABLE"}, "2 and 3 serve")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("model_config_list {", "Error: INVALID_ARGUMENT: Invalid protobuf file: ", id="no protobuf"),
        pytest.param(
            'model_config_list { config { name: "a" base_path: "b" model_platform: "tensorflow" } }',
            "Error: INVALID_ARGUMENT: Expected model a to have an absolute path or URI; got base_path()=b",
            id="relative path",
        ),
        pytest.param(
            """model_config_list { config { name: "a" base_path: "/b" model_platform: "tensorflow"
                                            version_labels { key: "x" value: 1 } } }""",
            "Error: FAILED_PRECONDITION: Request to assign label to version 1 of model a, which is not currently",
            id="labels before versions",
        ),
    ],
)
def test_2_a_wrong_configuration_fails_the_start(start: Start, tmp_path: Path, text: str, complaint: str) -> None:
    """And says what is wrong."""
    (tmp_path / "models.config").write_text(text)

    server = start(f"--model_config_file={tmp_path / 'models.config'}")

    assert 2 == server.exit_status()
    assert complaint in server.log


def test_a_models_directory_without_models_says_how_to_make_one(start: Start, tmp_path: Path) -> None:
    """Our own flag, our own words: where it looked, what it expected, which command helps."""
    server = start(f"--models_dir={tmp_path}")

    assert 1 == server.exit_status()
    assert f"No model in {tmp_path}. Expected {tmp_path}/<model>/<version>/saved_model.pb" in server.log
    assert f"microtome export RECIPE --out {tmp_path}" in server.log


def test_a_models_directory_serves_what_loads(start: Start, tmp_path: Path) -> None:
    """One broken model does not keep the others from being served."""
    (tmp_path / "broken" / "1").mkdir(parents=True)
    write_tiny(tmp_path / "whole" / "1")

    with Client(start(f"--models_dir={tmp_path}", *QUICK).ready().address) as client:
        assert ({1: "END"}, {1: "AVAILABLE"}) == (client.states("broken"), client.states("whole"))
