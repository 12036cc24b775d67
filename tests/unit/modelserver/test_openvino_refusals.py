"""What the OpenVINO engine cannot serve: said at the load, or, when it is not installed, at the start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2

from modelserver.engines.openvino_engine import OpenVinoEngine
from modelserver.engines.openvino_runtime import OpenVinoSettings, import_openvino
from modelserver.errors import DataLoss, FailedPrecondition, NotFound
from tests.contract.tfserving.server_process import Client, ServerProcess, eventually
from tests.contract.tfserving.tiny_models import write_lone, write_types
from tests.exported_models import REPOSITORY

WITHOUT_OPENVINO = """
import sys
sys.modules["openvino"] = None
from modelserver.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def engine() -> OpenVinoEngine:
    """The engine under test."""
    return OpenVinoEngine(OpenVinoSettings())


def write_one(path: Path, compute: Callable[[Any], Any]) -> Path:
    """Write a SavedModel of one signature."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        pixels = v1.placeholder(tf.uint8, [None, 8, 8, 3], name="images")
        definition = v1.saved_model.predict_signature_def({"images": pixels}, {"answer": compute(pixels)})
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": definition})
        builder.save()
    return path


def eigenvalues(pixels: Any) -> Any:
    """Compute something that OpenVINO has no operation for."""
    return tf.linalg.eigvalsh(tf.cast(pixels, tf.float32)[:, :, :, 0])


def with_variable(path: Path) -> Path:
    """Write what ``keras.Model.export`` writes: variables, and a second signature that needs them."""
    model = tf.keras.Sequential([tf.keras.Input((8,)), tf.keras.layers.Dense(2)])
    model.export(str(path), verbose=False)
    return path


def damaged(path: Path) -> Path:
    """Write something else under that name."""
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"garbage")
    return path


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda path: write_one(path, eigenvalues), "OpenVINO cannot read this model: .*SelfAdjointEigV2"),
        (lambda path: write_one(path, tf.as_string), "strings: answer. --engine=tensorflow"),
        (write_types, "Expected a signature 'serving_default', .*--engine=tensorflow serves any"),
        (with_variable, "OpenVINO computes 'serving_default' alone. .*serve. --engine=tensorflow serves any"),
        (damaged, "Received a damaged file"),
    ],
    ids=["operation", "strings", "no default", "a second signature", "damaged"],
)
def test_a_model_that_does_not_fit_is_refused(
    engine: OpenVinoEngine, tmp_path: Path, write: Callable[[Path], Path], text: str
) -> None:
    """With the reason, and with what to do."""
    with pytest.raises((FailedPrecondition, DataLoss), match=text):
        engine.load(write(tmp_path / "1"))


def test_no_model_is_not_found(engine: OpenVinoEngine, tmp_path: Path) -> None:
    """As with the other engine."""
    with pytest.raises(NotFound, match=r"there is no saved_model\.pb"):
        engine.load(tmp_path)


def test_nobody_is_told_that_openvino_runs() -> None:
    """Its import would send an event; the package that sends it stays out."""
    import_openvino()

    loaded = {name for name, module in sys.modules.items() if module}
    assert "openvino_telemetry" not in loaded
    assert "openvino.tools.ovc.telemetry_stub" in loaded


def test_without_openvino_the_server_says_what_to_install(tmp_path: Path) -> None:
    """At once, and the default engine is none the worse."""
    (tmp_path / "model").mkdir()
    words = [sys.executable, "-c", WITHOUT_OPENVINO, f"--models_dir={tmp_path}", "--port=0"]
    words.append(f"--grpc_socket_path={tmp_path / 's'}")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [*words, "--engine=openvino"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert 2 == done.returncode
    assert "OpenVINO needs the package openvino, which is not installed" in done.stderr
    assert "pip install openvino" in done.stderr


def test_a_version_that_openvino_cannot_read_ends_and_the_old_one_serves(tmp_path: Path) -> None:
    """Its state tells why."""
    models = tmp_path / "models"
    write_lone(models / "tiny" / "1")
    with ServerProcess(
        tmp_path / "server",
        "--engine=openvino",
        f"--model_base_path={models / 'tiny'}",
        "--model_name=tiny",
        "--max_num_load_retries=0",
        "--file_system_poll_wait_seconds=0.1",
    ) as server, Client(server.ready().address) as client:  # fmt: skip
        hidden = write_one(models / "tiny" / "hidden", eigenvalues)
        hidden.rename(hidden.with_name("2"))
        eventually(lambda: client.states("tiny").get(2) == "END", "the new version is tried")

        assert {2: "END", 1: "AVAILABLE"} == client.states("tiny")
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "tiny"
        newest, _ = client.models.GetModelStatus(request, timeout=10).model_version_status
        assert "SelfAdjointEigV2" in newest.status.error_message
