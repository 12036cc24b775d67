"""The server where TensorFlow cannot be imported: whole, over the models that OpenVINO computes.

What Predict answers there, `test_predict.py` holds: each of its tests runs on such a server too.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_management_pb2

from microtome.tfserving.v1.model_status_pb2 import GetModelStatusResponse
from tests.contract.tfserving.requests import predict
from tests.contract.tfserving.server_process import TENSORFLOW, Client, ServerProcess, eventually, free_port
from tests.contract.tfserving.tiny_models import golden_manifest, write_lone, write_tiny


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, socket_directory: Path
) -> Iterator[tuple[ServerProcess, Path, int]]:
    """Return a server, the directory of its models, and its REST port."""
    models, port = tmp_path_factory.mktemp("lone"), free_port()
    for name in ("tiny", "other"):
        write_lone(models / name / "1", warm_up=[predict(name), predict(name, "top")])
    config = models / "models.config"
    config.write_text(f"model_config_list {{ {_entry(models, 'tiny')} }}")
    with ServerProcess(
        socket_directory / "lone",
        f"--models_dir={models}",
        f"--model_config_file={config}",
        "--enable_reload_requests",
        "--enable_batching",
        f"--rest_api_port={port}",
        "--file_system_poll_wait_seconds=0.1",
        without=TENSORFLOW,
    ) as server:
        yield server.ready(), models, port


@pytest.fixture
def client(served: tuple[ServerProcess, Path, int]) -> Iterator[Client]:
    """Return a client of it."""
    with Client(served[0].address) as client:
        yield client


def _entry(models: Path, *names: str) -> str:
    entry = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'
    return " ".join(entry.format(name, models) for name in names)


def test_all_of_the_api_answers(client: Client, served: tuple[ServerProcess, Path, int]) -> None:
    """Signatures, metadata, states and a new configuration, over gRPC and REST."""
    _, models, port = served
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "tiny"
    packed = client.prediction.GetModelMetadata(request, timeout=10).metadata["signature_def"]
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert packed.Unpack(signatures)
    assert {"serving_default", "manifest"} == set(signatures.signature_def)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/tiny/metadata", timeout=10) as answer:
        assert "DT_UINT8" in answer.read().decode()

    change = f"config {{ model_config_list {{ {_entry(models, 'tiny', 'other')} }} }}"
    reload = text_format.Parse(change, model_management_pb2.ReloadConfigRequest())
    client.models.HandleReloadConfigRequest(reload, timeout=60)
    assert {"top"} == set(client.predict(predict("other", "top")).outputs)


def test_states_tell_the_engine(client: Client, served: tuple[ServerProcess, Path, int]) -> None:
    """And why, in a field that TensorFlow Serving's own clients pass over; so does REST, and the log."""
    server, _, port = served
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "tiny"
    theirs = client.models.GetModelStatus(request, timeout=10)
    (status,) = GetModelStatusResponse.FromString(theirs.SerializeToString()).model_version_status
    assert status.engine.startswith("openvino: it computes the golden vectors, deviation ")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/tiny", timeout=10) as answer:
        assert [status.engine] == [each["engine"] for each in json.load(answer)["model_version_status"]]
    assert status.engine in server.log


@pytest.mark.parametrize(("version", "only"), [(2, ("serving_default", "manifest")), (3, ())], ids=["deviates", "more"])
def test_what_openvino_does_not_compute_says_what_is_missing(
    client: Client, served: tuple[ServerProcess, Path, int], version: int, only: tuple[str, ...]
) -> None:
    """The version ends, or is tried again, and the one before serves on."""
    server, models, _ = served
    write_tiny(models / "tiny" / str(version), manifest=golden_manifest(7 if only else version), only=only)
    reason = f"Loading servable {{name: tiny version: {version}}} failed: "
    eventually(lambda: reason in server.log, "tried")
    (line,) = [line for line in server.log.splitlines() if reason in line]
    assert "TensorFlow, which would compute it, is not installed here" in line
    assert 1 == client.predict(predict()).model_spec.version.value
