"""Pings of a gateway's channel into a call without data, against gRPC's C core, on which TensorFlow Serving is built.

A stock server closes a connection at the third ping within five minutes between which it sent nothing. All intervals
are a tenth of the real ones, but for the server's five minutes.
"""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NoReturn

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

FASTER = 10

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
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
            lambda _, __, answer=answer: respond(answer)
        )
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
    milliseconds = dict(client._OPTIONS)["grpc.keepalive_time_ms"] // FASTER
    options = [*client._OPTIONS, ("grpc.keepalive_time_ms", milliseconds)]
    monkeypatch.setattr(client, "_OPTIONS", tuple(dict(options).items()))
    return milliseconds / 1000


async def call(rpc: ModelServerClient) -> None:
    """Make a call that lasts until the server is told to answer."""
    await rpc.predict("lite0", 1, "manifest", {"query": query_tensor()}, [], timeout=60.0)


async def asking(rpc: ModelServerClient, interval: float) -> NoReturn:
    """Ask for the status ten times as often as the channel pings, as a gateway does."""
    while True:
        await asyncio.sleep(interval / 10)
        await rpc.versions("lite0", timeout=10.0)


async def test_who_is_cut_off_in_a_call_without_data(interval: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stock server only who pings on and on, neither a gateway nor its channel alone; by a server of deploy/ none.

    gRPC's channels stop after two pings without data. Older ones, and those that are told to, do not.
    """
    assert dict(deployed())["grpc.http2.min_ping_interval_without_data_ms"] <= 1000 * interval / 2
    with serving([]) as (stock, stock_done), serving(deployed()) as (ours, ours_done):
        stands = [ModelServerClient(Place(stock))]
        monkeypatch.setattr(client, "_OPTIONS", (*client._OPTIONS, ("grpc.http2.max_pings_without_data", 0)))
        stands += [ModelServerClient(Place(stock)), ModelServerClient(Place(ours))]
        falls = ModelServerClient(Place(stock))
        calls = [asyncio.create_task(call(rpc)) for rpc in stands]
        talk = asyncio.create_task(asking(stands[1], interval))
        with pytest.raises(ModelServerDown):
            await call(falls)
        assert [False] * 3 == [one.done() for one in calls]
        assert not talk.done()
        stock_done.set()
        ours_done.set()
        await asyncio.gather(*calls)
        talk.cancel()
        for rpc in (*stands, falls):
            await rpc.close()
