"""Pings of a gateway's channel into a call without data, against gRPC's C core, on which TensorFlow Serving is built.

A stock server closes a connection at the third ping within five minutes between which it sent nothing. All intervals
are a hundredth of the real ones, but for the server's five minutes.
"""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
import yaml

from microtome.errors import ModelServerDown
from microtome.tfserving.v1.model_status_pb2 import GetModelStatusResponse
from microtome.tfserving.v1.predict_pb2 import PredictResponse
from service.model_server import client
from service.model_server.client import ModelServerClient
from service.model_server.names import Place
from service.model_server.predict_encoding import query_tensor
from tests.exported_models import REPOSITORY

FASTER = 100
PINGS = 12
"""That fit into the call; a stock server stands three."""

Arguments = list[tuple[str, int]]


def deployed() -> Arguments:
    """Return the arguments of deploy/'s model servers, with intervals as short as the gateway's here."""
    text = (REPOSITORY / "deploy/kubernetes/base/model-server.yaml").read_text(encoding="utf-8")
    (server,) = next(yaml.safe_load_all(text))["spec"]["template"]["spec"]["containers"]
    (flag,) = [word.partition("=")[2] for word in server["args"] if word.startswith("--grpc_channel_arguments=")]
    pairs = [(name, int(value)) for name, value in (pair.split("=") for pair in flag.split(","))]
    return [(name, value // FASTER if name.endswith("_ms") else value) for name, value in pairs]


@contextmanager
def serving(arguments: Arguments) -> Iterator[tuple[str, threading.Event]]:
    """Serve calls that compute, without sending a byte, until the event that is yielded beside the address is set."""
    done = threading.Event()
    answers = {
        "PredictionService": ("Predict", PredictResponse()),
        "ModelService": ("GetModelStatus", GetModelStatusResponse()),
    }

    def respond(answer: PredictResponse | GetModelStatusResponse) -> bytes:
        if isinstance(answer, PredictResponse):
            done.wait(60.0)
        return answer.SerializeToString()

    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0), *arguments])
    for service, (method, answer) in answers.items():
        handler = grpc.unary_unary_rpc_method_handler(lambda _, __, answer=answer: respond(answer))
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", {method: handler}),)
        )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", done
    finally:
        done.set()
        server.stop(None).wait()


@pytest.fixture
def interval(monkeypatch: pytest.MonkeyPatch) -> float:
    """Make the gateway's channels ping faster; return the seconds between two pings."""
    options = dict(client._OPTIONS)
    milliseconds = options["grpc.keepalive_time_ms"] // FASTER
    options["grpc.keepalive_time_ms"] = milliseconds
    monkeypatch.setattr(client, "_OPTIONS", tuple(options.items()))
    return milliseconds / 1000


async def predict(rpc: ModelServerClient) -> None:
    """Make a call that lasts until the server is told to answer."""
    await rpc.predict("lite0", 1, "manifest", {"query": query_tensor()}, [], timeout=60.0)


async def test_a_stock_server_closes_a_connection_that_is_pinged_without_data(interval: float) -> None:
    """This is what the arguments in deploy/ and the gateway's questions are for."""
    with serving([]) as (address, _):
        rpc = ModelServerClient(Place(address))
        with pytest.raises(ModelServerDown):
            await predict(rpc)
        await rpc.close()


async def test_a_stock_server_stands_a_gateway(interval: float) -> None:
    """The status that it asks for each second, ten times as often as it pings, brings data."""
    with serving([]) as (address, done):
        rpc = ModelServerClient(Place(address))
        call = asyncio.create_task(predict(rpc))
        for _ in range(10 * PINGS):
            await asyncio.sleep(interval / 10)
            await rpc.versions("lite0", timeout=10.0)
        assert not call.done()
        done.set()
        await call
        await rpc.close()


async def test_a_server_of_deploy_stands_pings_alone(interval: float) -> None:
    """Its arguments allow twice as many as a gateway sends."""
    arguments = deployed()
    assert dict(arguments)["grpc.http2.min_ping_interval_without_data_ms"] <= 1000 * interval / 2
    with serving(arguments) as (address, done):
        rpc = ModelServerClient(Place(address))
        call = asyncio.create_task(predict(rpc))
        await asyncio.sleep(PINGS * interval)
        assert not call.done()
        done.set()
        await call
        await rpc.close()
