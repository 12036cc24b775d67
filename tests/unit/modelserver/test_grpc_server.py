"""The text of a status, and the memory of messages that are on their way."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import grpc.aio
from google.protobuf.empty_pb2 import Empty
from tensorflow_serving.apis.predict_pb2 import PredictResponse

from modelserver.api.grpc_server import Servicer, create_grpc_server, cut
from modelserver.config.options import Options
from service.model_server.client import ModelServerClient, bulk_call
from service.model_server.names import Place
from tests.hostile.slow import SlowCalls

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def test_a_message_is_cut_at_1024_bytes_not_characters() -> None:
    """A character on the edge is left out rather than broken."""
    assert "a" * 1024 == cut("a" * 1024)
    assert "a" * 1024 + "...TRUNCATED" == cut("a" * 1025)
    assert "é" * 512 + "...TRUNCATED" == cut("é" * 513)
    assert "a" + "é" * 511 + "...TRUNCATED" == cut("a" + "é" * 513)


class Answering:
    """The services, of which one method answers nothing."""

    def methods(self) -> dict[str, dict[str, Any]]:
        """Return it."""
        return {"PredictionService": {"Predict": self.predict}}

    async def predict(self, raw: bytes, _: object) -> Any:
        """Return an empty message."""
        assert raw
        return Empty()


class Noting:
    """Handlers that note which calls let others pass."""

    def __init__(self) -> None:
        self.bulk: list[bool] = []

    def call(self, _: str, __: str) -> AbstractContextManager[None]:
        """Count nothing."""
        return nullcontext()

    async def predict(self, _: object, __: float | None, *, bulk: bool) -> PredictResponse:
        """Answer nothing."""
        self.bulk.append(bulk)
        return PredictResponse()


async def test_the_gateway_says_which_calls_let_others_pass() -> None:
    """In the call's metadata, beside a trace's; other calls have none of it."""
    noting: Any = Noting()
    nothing: Any = None
    server = await create_grpc_server(Options(), Servicer(noting, nothing), nothing)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = ModelServerClient(Place(f"127.0.0.1:{port}"), lambda: [("traceparent", "x")])
    try:
        for bulk in (False, True, False):
            bulk_call.set(bulk)
            await client.predict("m", 1, "serving_default", {}, [], timeout=20)
    finally:
        await client.close()
        await server.stop(None)
    assert [False, True, False] == noting.bulk


async def test_messages_that_never_end_hold_little() -> None:
    """Of thirty of 4 MB that are sent but for their last bytes four stay, which is what all may hold."""
    servicer: Any = Answering()
    catalogue: Any = None
    server = await create_grpc_server(Options(max_request_bytes=4 << 20), servicer, catalogue)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    senders = [SlowCalls(port, 10, 4 << 20, path=PREDICT) for _ in range(3)]
    try:
        await asyncio.gather(
            *(
                asyncio.to_thread(
                    each.send, time.monotonic() + 20, lambda: sum(len(each.ended) for each in senders) >= 26
                )
                for each in senders
            )
        )
        assert 26 <= sum(len(each.ended) for each in senders) < 30
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask: Any = channel.unary_unary(PREDICT)
            assert await ask(b"a", timeout=20) == b""
    finally:
        for each in senders:
            each.close()
        await server.stop(None)
