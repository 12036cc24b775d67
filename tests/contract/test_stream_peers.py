"""EmbedStream between peers of which one was built before a message could hold several images.

The older peer speaks in messages of the descriptor that it was promised, which know nothing of the new fields.
"""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet

from microtome.client.grpc_stream import embed_stream
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub
from tests.pictures import png
from tests.unit.service.grpc.conftest import Service, service_with

METHOD = "/microtome.v1.EmbeddingService/EmbedStream"
PROMISED = Path(__file__).parent / "promised" / "one_image_a_message.binpb"
NAMES = [f"image {number}" for number in range(40)]


@pytest.fixture(scope="module")
def old() -> tuple[Any, Any]:
    """The stream's messages, request and response, as they were before."""
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(PROMISED.read_bytes()).file:
        pool.Add(file)
    request, response = (
        GetMessageClass(pool.FindMessageTypeByName(f"microtome.v1.EmbedStream{name}"))
        for name in ("Request", "Response")
    )
    assert "more" not in request.DESCRIPTOR.fields_by_name
    return request, response


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """The server of today, with room for several images in a message."""
    with ThreadPoolExecutor(2) as decoders:
        async with service_with(decoders, stream_images=8) as found:
            yield found


def strange(message: Any) -> list[int]:
    """The numbers of the fields that a message's reader does not know."""
    fields: Any = UnknownFieldSet(message)
    return [field.field_number for field in fields]


@pytest.mark.parametrize("again", [False, True], ids=["computed", "hits"])
async def test_an_old_client_gets_one_answer_a_message(service: Service, old: tuple[Any, Any], again: bool) -> None:
    """To every image that it sends, and nothing in it that it does not know."""
    request, response = old
    raw: Any = service.channel.stream_stream(
        METHOD, request_serializer=request.SerializeToString, response_deserializer=response.FromString
    )
    for _ in range(1 + again):
        messages = [request(id=name, image={"data": png(seed)}) for seed, name in enumerate(NAMES)]
        answers = [answer async for answer in raw(iter(messages))]
    assert set(NAMES) == {answer.id for answer in answers}
    assert len(NAMES) == len(answers)
    assert all(answer.result.embeddings and not strange(answer) for answer in answers)


async def test_a_new_client_sends_an_old_server_one_image_a_message(old: tuple[Any, Any]) -> None:
    """However many are ready: none may be lost in a field that the server does not read."""
    request, response = old
    heard: list[Any] = []

    async def answer(_: Any, context: Any) -> None:
        while (raw := await context.read()) is not grpc.aio.EOF:
            heard.append(request.FromString(raw))
            if heard[-1].id:
                await context.write(response(id=heard[-1].id).SerializeToString())

    server = grpc.aio.server()
    handlers: Any = {"EmbedStream": grpc.stream_stream_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(METHOD.split("/")[1], handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            images = [(name, png(seed)) for seed, name in enumerate(NAMES)]
            answers = [found.id async for found in embed_stream(EmbeddingServiceStub(channel), images, under_way=16)]
    finally:
        await server.stop(0)
    assert answers == NAMES
    # The first message offers to read groups, which an old server passes over; no other has anything new.
    assert [[5], *[[] for _ in NAMES]] == [strange(message) for message in heard]
