"""Health, reflection, sockets and limits: section 1.7 of the reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.contract.tfserving.requests import predict, slow
from tests.contract.tfserving.server_process import Client, ServerProcess, free_port, status_of

Start = Callable[..., ServerProcess]


@pytest.mark.parametrize("name", ["", "ModelService", "PredictionService"])
def test_1_7_health_knows_three_names(client: Client, name: str) -> None:
    """And they are always serving."""
    answer = health_pb2_grpc.HealthStub(client.channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=10)

    assert health_pb2.HealthCheckResponse.SERVING == answer.status


@pytest.mark.parametrize("name", ["tensorflow.serving.PredictionService", "tiny"])
def test_1_7_health_knows_no_other_name(client: Client, name: str) -> None:
    """Not even the one that a client would expect."""
    stub = health_pb2_grpc.HealthStub(client.channel)

    code, _ = status_of(lambda: stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10))

    assert grpc.StatusCode.NOT_FOUND is code


def test_1_7_health_is_off_unless_asked_for(batching_client: Client) -> None:
    """--enable_grpc_healthcheck_service defaults to false."""
    stub = health_pb2_grpc.HealthStub(batching_client.channel)

    code, _ = status_of(lambda: stub.Check(health_pb2.HealthCheckRequest(), timeout=10))

    assert grpc.StatusCode.UNIMPLEMENTED is code


def test_1_7_reflection_describes_both_services(client: Client) -> None:
    """So that grpcurl works without proto files."""
    database = ProtoReflectionDescriptorDatabase(client.channel)

    assert {"tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"} <= set(database.get_services())
    file = database.FindFileContainingSymbol("tensorflow.serving.PredictionService")
    assert {"Predict", "GetModelMetadata"} <= {method.name for method in file.service[0].method}


def test_1_7_port_and_socket_serve_at_once(start: Start, tiny_config: Path) -> None:
    """The same models behind both."""
    port = free_port()
    server = start(f"--model_base_path={tiny_config.parent / 'tiny'}", "--model_name=tiny", port=port).ready()

    for address in (server.address, f"127.0.0.1:{port}"):
        with Client(address) as client:
            assert {2: "AVAILABLE"} == client.states("tiny")
            assert client.predict(predict()).outputs


def test_0_4_calls_beyond_grpc_max_threads_are_refused(start: Start, tiny_config: Path) -> None:
    """RESOURCE_EXHAUSTED, as when the real server has no thread left."""
    server = start(f"--model_config_file={tiny_config}", "--allow_version_labels_for_unavailable_models",
                   "--grpc_max_threads=1").ready()  # fmt: skip
    with Client(server.address) as client:
        client.predict(predict())
        calls = [client.prediction.Predict.future(slow(1000), timeout=30) for _ in range(3)]

        codes = [call.code() for call in calls]

    assert {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED} == set(codes)
