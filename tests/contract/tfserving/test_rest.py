"""REST and metrics: sections 0.14, 1.5 and 6 of the reference."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.tfserving.requests import predict
from tests.contract.tfserving.server_process import Client, ServerProcess, free_port

METRICS = "/monitoring/prometheus/metrics"


@pytest.fixture(scope="module")
def rest(tiny_config: Path, socket_directory: Path) -> Iterator[tuple[str, str]]:
    """Return URL and gRPC address of a server with REST and metrics."""
    monitoring = socket_directory / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    port = free_port()
    with ServerProcess(
        socket_directory / "rest",
        f"--model_config_file={tiny_config}",
        "--allow_version_labels_for_unavailable_models",
        "--enable_batching",
        f"--rest_api_port={port}",
        f"--monitoring_config_file={monitoring}",
    ) as server:
        yield f"http://127.0.0.1:{port}", server.ready().address


def _call(url: str, method: str = "GET", body: str = "{}") -> tuple[int, str, str]:
    """Return status, content type and body."""
    request = urllib.request.Request(url, method=method, data=body.encode() if method == "POST" else None)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["content-type"], error.read().decode()


def _status(version: str) -> dict[str, object]:
    return {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}


@pytest.mark.parametrize(
    ("path", "versions"), [("", ["2", "1"]), ("/versions/1", ["1"]), ("/labels/stable", ["2", "1"])]
)
def test_6_rest_status(rest: tuple[str, str], path: str, versions: list[str]) -> None:
    """Versions as strings, highest first, states and codes by name; a label is ignored."""
    status, media_type, body = _call(f"{rest[0]}/v1/models/tiny{path}")

    assert (200, "application/json") == (status, media_type)
    found = json.loads(body)["model_version_status"]
    assert [True] * len(versions) == [each.pop("engine").startswith("tensorflow: not by OpenVINO: ") for each in found]
    assert [_status(version) for version in versions] == found


@pytest.mark.parametrize(("path", "version"), [("", "2"), ("/versions/1", "1"), ("/labels/stable", "1")])
def test_6_rest_metadata(rest: tuple[str, str], path: str, version: str) -> None:
    """All signatures, unpacked; here a label counts."""
    status, media_type, body = _call(f"{rest[0]}/v1/models/tiny{path}/metadata")

    assert (200, "application/json") == (status, media_type)
    answer = json.loads(body)
    assert {"name": "tiny", "signature_name": "", "version": version} == answer["model_spec"]
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert "tensorflow/serving/predict" == signature["method_name"]
    images = signature["inputs"]["images"]
    assert ("DT_UINT8", "images:0") == (images["dtype"], images["name"])
    assert ["-1", "8", "8", "3"] == [dim["size"] for dim in images["tensor_shape"]["dim"]]


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v1/models/none", 404, "Could not find any versions of model none"),
        ("GET", "/v1/models/tiny/versions/9", 404, "Could not find version 9 of model tiny"),
        ("GET", "/v1/models/none/metadata", 404, "Servable not found for request: Latest(none)"),
        ("GET", "/v1/models/tiny/versions/9/metadata", 404, "Servable not found for request: Specific(tiny, 9)"),
        ("GET", "/v1/models/tiny/labels/x/metadata", 400, "Unrecognized servable version label: x"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/tiny/versions/99999999999999999999", 400, "Failed to convert version: 9"),
        ("GET", f"/v1/models/tiny/versions/{'9' * 5000}", 400, f"Failed to convert version: {'9' * 40} to numeric."),
        ("GET", "/v1/models/tiny/versions/%D9%A1", 400, "Malformed request: GET /v1/models/tiny/versions/"),
        ("GET", "/v1/models/tiny/else", 400, "Malformed request: GET /v1/models/tiny/else"),
        ("PUT", "/v1/models/tiny", 400, "Malformed request: PUT /v1/models/tiny"),
        ("POST", "/v1/models/tiny:predict", 501, "predict over REST is not implemented; use gRPC"),
        ("GET", "/elsewhere", 404, "Not Found"),
    ],
)
def test_6_rest_errors(rest: tuple[str, str], method: str, path: str, status: int, message: str) -> None:
    """GRPC's codes as HTTP's, the text under ``error``."""
    code, media_type, body = _call(rest[0] + path, method)

    assert (status, "application/json") == (code, media_type)
    assert ["error"] == list(json.loads(body))
    assert json.loads(body)["error"].startswith(message)


def test_1_3_unknown_signature_over_rest(rest: tuple[str, str]) -> None:
    """Only ``:predict`` takes a signature, and it is not offered: 501 whether there is such a signature or not.

    The row's own answer, 400 and 'Serving signature name: "absent" not found in signature def', is the real server's.
    """
    answers = {
        _call(f"{rest[0]}/v1/models/tiny:predict", "POST", json.dumps({"signature_name": name, "instances": []}))
        for name in ("absent", "serving_default")
    }

    assert {(501, "application/json", '{ "error": "predict over REST is not implemented; use gRPC" }')} == answers


def _requests(url: str) -> dict[tuple[str, str], float]:
    """Return the counts of requests by model and status."""
    page = _call(url + METRICS)[2]
    found = re.findall(r':tensorflow:serving:request_count{model_name="(.*?)",status="(.*?)"} (\d+)', page)
    return {(model, status): float(count) for model, status, count in found}


def test_6_requests_are_counted_over_both_ports(rest: tuple[str, str]) -> None:
    """Over gRPC inference alone, over REST every call; by the name that the caller wrote, if a model has it.

    The real server keeps every name that a caller invents.
    """
    url, address = rest
    before = _requests(url)

    with Client(address) as client:
        client.predict(predict())
        client.states("tiny")
        with pytest.raises(grpc.RpcError):
            client.predict(predict("absent"))
    _call(f"{url}/v1/models/tiny")
    _call(f"{url}/v1/models/tiny/metadata")
    _call(f"{url}/v1/models/absent")

    after = _requests(url)
    assert {("tiny", "OK"): 3, ("(unknown)", "NOT_FOUND"): 2} == {
        key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)
    }


def test_6_metrics_are_read_by_prometheus_and_have_its_names(rest: tuple[str, str], tiny_config: Path) -> None:
    """Names begin with a colon; times are in microseconds; labels say who and how."""
    url, address = rest
    with Client(address) as client:
        client.predict(predict())
    _call(f"{url}/v1/models/tiny")

    status, media_type, page = _call(url + METRICS)

    assert (200, "text/plain") == (status, media_type)
    prefix = ":tensorflow:serving:"
    assert {
        *(f"{prefix}{name}" for name in ("request_count", "request_latency", "runtime_latency")),
        *(
            f"{prefix}batching_session:{name}"
            for name in ("queuing_latency", "input_batch_size", "processed_batch_size", "padding_size",
                         "wrapped_run_count")
        ),
        *(f":tensorflow:cc:saved_model:{name}" for name in ("load_attempt_count", "load_latency")),
    } == set(re.findall(r"# TYPE (\S+)", page))  # fmt: skip
    assert list(text_string_to_metric_families(page))
    for labels in ('model_name="tiny",API="Predict",entrypoint="GRPC"', 'model_name="tiny",API="",entrypoint="REST"'):
        assert f"{prefix}request_latency_count{{{labels}}}" in page
    assert f'{prefix}runtime_latency_count{{model_name="tiny",API="Predict",runtime="TF1"}}' in page
    loaded = f'model_path="{tiny_config.parent}/tiny/2",status="success"'
    assert f":tensorflow:cc:saved_model:load_attempt_count{{{loaded}}} 1\n" in page


def test_6_without_a_monitoring_config_there_are_no_metrics(tiny_config: Path, socket_directory: Path) -> None:
    """As there: REST alone does not offer them; and both ports end with the process."""
    port = free_port()
    with ServerProcess(
        socket_directory / "bare", f"--model_base_path={tiny_config.parent / 'tiny'}", f"--rest_api_port={port}"
    ) as server:
        server.ready()

        assert 404 == _call(f"http://127.0.0.1:{port}{METRICS}")[0]

        assert 0 == server.terminate()
