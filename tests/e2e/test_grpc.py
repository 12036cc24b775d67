"""The gRPC port of a real gateway: a long stream, a model server that dies, and a clean end."""

import asyncio
import hashlib
import queue
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from microtome.client.grpc_stream import embed_stream
from microtome.v1 import embedding_pb2 as pb
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub
from tests.e2e.conftest import Stack
from tests.e2e.photos import example, ten, unseen
from tests.e2e.processes import Gateway, ModelServer, eventually, free_port

CAT = example("cat")
OPTIONS = (("grpc.enable_http_proxy", 0),)


class Talk:
    """A stream whose messages are said one by one."""

    def __init__(self, stub: EmbeddingServiceStub) -> None:
        self._messages: queue.SimpleQueue[pb.EmbedStreamRequest | None] = queue.SimpleQueue()
        self.answers = stub.EmbedStream(iter(self._messages.get, None))

    def say(self, name: str, image: bytes) -> None:
        """Send an image."""
        self._messages.put(pb.EmbedStreamRequest(id=name, image=pb.Image(data=image)))

    def ask(self, image: bytes) -> pb.EmbedStreamResponse:
        """Send an image and return its answer."""
        self.say("asked", image)
        return next(self.answers)

    def end(self) -> None:
        """Say that this was all."""
        self._messages.put(None)


def resident(pid: int) -> float:
    """Megabytes that a process has in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS:"))


def reason(status: Status) -> str:
    """The leaf of the error tree that a status names."""
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)


@pytest.fixture(scope="module")
def gateway(directory: Path, module_stack: Stack) -> Iterator[Gateway]:
    """A gateway with a gRPC port and a small memory cache."""
    module_stack.model_server.heal()
    own = Gateway(directory, module_stack.model_server.address, grpc_port=free_port(), cache_bytes=2_000_000)
    own.start()
    yield own
    own.destroy()


@pytest.fixture
def model_server(module_stack: Stack) -> ModelServer:
    """The model server behind it, serving."""
    module_stack.model_server.heal()
    return module_stack.model_server


@pytest.fixture
def stub(gateway: Gateway, model_server: ModelServer) -> Iterator[EmbeddingServiceStub]:
    """A client of a gateway that is ready."""
    gateway.heal()
    address = f"127.0.0.1:{gateway.environment()['MICROTOME_GRPC_PORT']}"
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        yield EmbeddingServiceStub(channel)


def test_both_transports_give_the_same_vectors(gateway: Gateway, stub: EmbeddingServiceStub) -> None:
    """Bit by bit, for every photo, in one request and in a stream."""
    photos = ten()
    together = stub.Embed(pb.EmbedRequest(images=[pb.Image(data=photo) for photo in photos.values()]))
    messages = [pb.EmbedStreamRequest(id=name, image=pb.Image(data=photo)) for name, photo in photos.items()]
    streamed = {answer.id: answer.result for answer in stub.EmbedStream(iter(messages))}
    with gateway.client() as client:
        for (name, photo), result in zip(photos.items(), together.results, strict=True):
            rows = client.post("/embed", content=photo, headers={"accept": "application/octet-stream"}).content
            assert rows == result.embeddings[0].data == streamed[name].embeddings[0].data, name


def test_a_stream_that_nobody_reads_stands_still(gateway: Gateway, stub: EmbeddingServiceStub) -> None:
    """The gateway stops reading, then gRPC does, and the images stay with the caller; once read, all are answered."""
    images, sent = 2_000, 0

    def messages() -> Iterator[pb.EmbedStreamRequest]:
        nonlocal sent
        for number in range(images):
            sent += 1
            yield pb.EmbedStreamRequest(id=str(number), image=pb.Image(data=CAT))

    def stands_still() -> bool:
        before = sent
        for _ in range(50):
            stub.ListModels(pb.ListModelsRequest())
        return before == sent

    stub.Embed(pb.EmbedRequest(images=[pb.Image(data=CAT)]))
    before = resident(gateway.pid)
    answers = stub.EmbedStream(messages())
    next(answers)
    eventually(stands_still, "the caller's side cannot send any more")
    assert sent < images
    assert resident(gateway.pid) < before + 40
    assert images - 1 == len({answer.id for answer in answers})
    assert resident(gateway.pid) < before + 40


def test_a_stream_outlives_its_model_server(stub: EmbeddingServiceStub, model_server: ModelServer) -> None:
    """While it is dead each image is answered UNAVAILABLE, once it is back by its vector."""
    talk = Talk(stub)
    expected = talk.ask(CAT).result.embeddings[0].data
    model_server.kill()
    lost = talk.ask(unseen(CAT)).result.error
    assert ("MODEL_SERVER_DOWN", grpc.StatusCode.UNAVAILABLE.value[0]) == (reason(lost), lost.code)
    assert expected == talk.ask(CAT).result.embeddings[0].data, "what is in the cache is answered all the same"
    model_server.start()
    eventually(lambda: talk.ask(unseen(CAT)).result.embeddings, "images are computed again")
    np.testing.assert_array_equal(
        np.frombuffer(expected, "<f4"), np.frombuffer(talk.ask(CAT).result.embeddings[0].data, "<f4")
    )
    talk.end()
    assert [] == list(talk.answers)


def test_sigterm_lets_a_stream_answer_what_it_has_taken(
    gateway: Gateway, stub: EmbeddingServiceStub, model_server: ModelServer
) -> None:
    """Then the caller is told to go elsewhere, and the process ends with 0."""
    talk = Talk(stub)
    talk.ask(CAT)
    model_server.send(signal.SIGSTOP)
    for number in range(3):
        talk.say(str(number), unseen(CAT))
    with gateway.client() as client:
        eventually(lambda: "microtome_images_in_flight 3.0" in client.get("/metrics").text, "all are in flight")
    gateway.send(signal.SIGTERM)
    eventually(lambda: not gateway.alive(), "no new connections")
    model_server.send(signal.SIGCONT)
    answered = {next(talk.answers).id for _ in range(3)}
    assert {"0", "1", "2"} == answered
    with pytest.raises(grpc.RpcError) as caught:
        next(talk.answers)
    assert grpc.StatusCode.UNAVAILABLE == caught.value.code()
    assert 0 == gateway.wait()


def test_workers_share_the_port(directory: Path, module_stack: Stack) -> None:
    """Whichever of them a connection reaches, it answers; keys are asked for as in HTTP."""
    port, key = free_port(), hashlib.sha256(b"secret").hexdigest()
    crew = Gateway(
        directory, module_stack.model_server.address, workers=2, grpc_port=port, api_keys=f"shop sha256:{key}"
    )
    try:
        crew.start()
        for _ in range(8):
            with grpc.insecure_channel(
                f"127.0.0.1:{port}", options=(*OPTIONS, ("grpc.use_local_subchannel_pool", 1))
            ) as channel:
                stub = EmbeddingServiceStub(channel)
                found = stub.ListModels(
                    pb.ListModelsRequest(), metadata=(("x-api-key", "secret"),), wait_for_ready=True
                )
                assert ["lite0"] == [model.name for model in found.models]
                with pytest.raises(grpc.RpcError):
                    stub.ListModels(pb.ListModelsRequest())
        assert 0 == crew.terminate()
    finally:
        crew.destroy()


def test_a_grouped_stream_leaves_memory_flat(gateway: Gateway, stub: EmbeddingServiceStub) -> None:
    """A caller that takes one answer and then none is read no further, however many images a message holds."""
    read = 0

    def endless() -> Iterator[tuple[str, bytes]]:
        nonlocal read
        while True:
            read += 1
            yield str(read), CAT

    async def talk() -> None:
        address = f"127.0.0.1:{gateway.environment()['MICROTOME_GRPC_PORT']}"
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            stream = embed_stream(EmbeddingServiceStub(channel), endless(), under_way=500)
            assert (await anext(stream)).result.embeddings
            before = resident(gateway.pid)
            for _ in range(2_000):
                assert (await anext(stream)).result.embeddings
            assert read <= 2_000 + 2 * 500
            await stream.aclose()
            assert resident(gateway.pid) < before + 40

    stub.Embed(pb.EmbedRequest(images=[pb.Image(data=CAT)]))
    asyncio.run(talk())
