"""Health, reflection and encryption, as probes and tools use them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import microtome
from microtome.client.errors import MicrotomeError
from microtome.errors import ModelServerDown
from microtome.v1 import embedding_pb2 as pb
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub
from service.grpc.server import Encryption, Listening, grpc_server
from tests.certificates import make_certificates
from tests.pictures import png
from tests.unit.service.grpc.conftest import Service, service_with

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
NAME = "microtome.v1.EmbeddingService"
KSERVE = "inference.GRPCInferenceService"


async def test_health_is_told_of_the_whole_and_of_each_model(service: Service) -> None:
    """As readiness says; a name that is none is NOT_FOUND."""
    health = health_pb2_grpc.HealthStub(service.channel)

    async def statuses() -> list[int]:
        names = ("", NAME, KSERVE, "toy")
        return [(await health.Check(health_pb2.HealthCheckRequest(service=name))).status for name in names]

    assert [SERVING] * 4 == await statuses()
    service.server.failure = ModelServerDown("down")
    # The cache can still answer, as /readyz says.
    assert [SERVING, SERVING, SERVING, NOT_SERVING] == await statuses()
    assert {"", NAME, KSERVE, "toy"} == set((await health.List(health_pb2.HealthListRequest())).statuses)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="other"))
    assert StatusCode.NOT_FOUND == caught.value.code()


async def test_who_watches_is_told_of_changes_and_of_the_end(service: Service) -> None:
    """And does not hold a gateway back that stops."""
    health = health_pb2_grpc.HealthStub(service.channel)
    unknown = health.Watch(health_pb2.HealthCheckRequest(service="other"))
    assert UNKNOWN == (await unknown.read()).status
    unknown.cancel()
    watch = health.Watch(health_pb2.HealthCheckRequest(service="toy"))
    assert SERVING == (await watch.read()).status
    service.server.failure = ModelServerDown("down")
    assert NOT_SERVING == (await watch.read()).status
    service.server.failure = None
    assert SERVING == (await watch.read()).status
    service.stopping.set()
    assert NOT_SERVING == (await watch.read()).status
    assert grpc.aio.EOF == await watch.read()


async def test_reflection_tells_the_contracts(service: Service) -> None:
    """Every service, and the file that describes each: tools need no copy of them."""
    stub = reflection_pb2_grpc.ServerReflectionStub(service.channel)
    (listed,) = [
        answer
        async for answer in stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    ]
    names = {found.name for found in listed.list_services_response.service}
    own = {NAME: "microtome/v1/embedding.proto", KSERVE: "open_inference_grpc.proto"}
    assert {*own, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} == names
    for name in names:
        asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
        (described,) = [answer async for answer in stub.ServerReflectionInfo(iter([asked]))]
        raw = described.file_descriptor_response.file_descriptor_proto
        files = [FileDescriptorProto.FromString(each) for each in raw]
        services = [f"{file.package}.{its.name}" for file in files for its in file.service]
        assert name in services
        assert own.get(name, files[0].name) in [file.name for file in files]


async def test_every_method_of_the_contract_has_a_handler(service: Service) -> None:
    """None is forgotten in the table; one that is not in the contract is unimplemented."""

    async def code(method: str) -> StatusCode:
        say: Any = service.channel.stream_unary(f"/{NAME}/{method}")
        return await say(iter([b"\xff"])).code()  # type: ignore[no-any-return]

    methods = [method.name for method in pb.DESCRIPTOR.services_by_name["EmbeddingService"].methods]
    assert StatusCode.UNIMPLEMENTED not in [await code(method) for method in methods]
    assert StatusCode.UNIMPLEMENTED == await code("Other")


async def test_a_port_that_is_taken_is_an_error(service: Service) -> None:
    """Another gateway must not quietly take half of the calls."""
    listening = Listening("127.0.0.1", service.port, shared=False, drain=1)
    with pytest.raises(OSError, match=f"127.0.0.1:{service.port}"):
        await grpc_server(service.methods, listening, asyncio.Event()).__aenter__()


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an authority `ca`, and a `server` and a `client` that it has signed for localhost."""
    directory = tmp_path_factory.mktemp("pem")
    make_certificates(directory)
    return directory


async def embedded(service: Service, credentials: grpc.ChannelCredentials) -> int:
    """How many results an encrypted call has."""
    options = [("grpc.enable_http_proxy", 0)]
    async with grpc.aio.secure_channel(f"localhost:{service.port}", credentials, options=options) as channel:
        answer = await EmbeddingServiceStub(channel).Embed(pb.EmbedRequest(images=[pb.Image(data=png())]))
        return len(answer.results)


async def test_an_encrypted_port_serves_encrypted_calls_only(decoders: ThreadPoolExecutor, pem: Path) -> None:
    """The certificate is checked by the client, as ever."""
    encryption = Encryption(pem / "server.pem", pem / "server.key")
    async with service_with(decoders, encryption=encryption) as service:
        assert 1 == await embedded(service, grpc.ssl_channel_credentials((pem / "ca.pem").read_bytes()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.ListModels(pb.ListModelsRequest())
        assert StatusCode.UNAVAILABLE == caught.value.code()


async def test_where_callers_need_a_certificate_they_need_one(decoders: ThreadPoolExecutor, pem: Path) -> None:
    """One that the authority has signed."""
    encryption = Encryption(pem / "server.pem", pem / "server.key", pem / "ca.pem")
    authority, key, certificate = ((pem / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem"))
    async with service_with(decoders, encryption=encryption) as service:
        assert 1 == await embedded(service, grpc.ssl_channel_credentials(authority, key, certificate))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await embedded(service, grpc.ssl_channel_credentials(authority))
        assert StatusCode.UNAVAILABLE == caught.value.code()


async def test_the_python_client_trusts_whom_it_is_told_to(decoders: ThreadPoolExecutor, pem: Path) -> None:
    """`grpcs://` with `ca_file`, of both clients; without it the certificate's authority is unknown."""
    async with service_with(decoders, encryption=Encryption(pem / "server.pem", pem / "server.key")) as service:
        url, authority = f"grpcs://localhost:{service.port}", str(pem / "ca.pem")
        with microtome.Client(url, ca_file=authority) as client:
            vector = await asyncio.to_thread(client.embed, png())
        async with microtome.AsyncClient(url, ca_file=authority) as client:
            np.testing.assert_array_equal(vector, await client.embed(png()))
        async with microtome.AsyncClient(url, attempts=1) as client:
            with pytest.raises(MicrotomeError):
                await client.embed(png())
