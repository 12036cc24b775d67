"""One attempt over gRPC, for both clients."""

from collections.abc import Sequence

import grpc

from microtome.client import grpc_wire
from microtome.client.options import EmbedOptions
from microtome.client.outcomes import Answer, ModelInfo
from microtome.v1 import embedding_pb2 as messages
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub


class GrpcTransport:
    """One channel, shared by all threads: HTTP/2 carries many calls at a time."""

    def __init__(self, url: str, api_key: str | None, ca_file: str | None) -> None:
        self._url = url
        self._metadata = grpc_wire.metadata(api_key)
        address, credentials = grpc_wire.target(url, ca_file)
        self._channel = (
            grpc.secure_channel(address, credentials, options=grpc_wire.CHANNEL_OPTIONS)
            if credentials
            else grpc.insecure_channel(address, options=grpc_wire.CHANNEL_OPTIONS)
        )
        self._stub = EmbeddingServiceStub(self._channel)

    def embed(self, images: Sequence[bytes], options: EmbedOptions, timeout: float) -> Answer:
        """Embed the images of one request; a bad one is answered by its error."""
        with grpc_wire.translated(self._url):
            response = self._stub.Embed(
                grpc_wire.embed_request(images, options), timeout=timeout, metadata=self._metadata
            )
        return grpc_wire.read_embed(response, len(images))

    def models(self, timeout: float) -> list[ModelInfo]:
        """List what is served, the default model first."""
        with grpc_wire.translated(self._url):
            response = self._stub.ListModels(messages.ListModelsRequest(), timeout=timeout, metadata=self._metadata)
        return grpc_wire.read_models(response)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class AsyncGrpcTransport:
    """The same for asyncio."""

    def __init__(self, url: str, api_key: str | None, ca_file: str | None) -> None:
        self._url = url
        self._metadata = grpc_wire.metadata(api_key)
        address, credentials = grpc_wire.target(url, ca_file)
        self._channel = (
            grpc.aio.secure_channel(address, credentials, options=grpc_wire.CHANNEL_OPTIONS)
            if credentials
            else grpc.aio.insecure_channel(address, options=grpc_wire.CHANNEL_OPTIONS)
        )
        self._stub = EmbeddingServiceStub(self._channel)

    async def embed(self, images: Sequence[bytes], options: EmbedOptions, timeout: float) -> Answer:  # noqa: ASYNC109
        """Embed the images of one request; a bad one is answered by its error."""
        with grpc_wire.translated(self._url):
            response = await self._stub.Embed(
                grpc_wire.embed_request(images, options), timeout=timeout, metadata=self._metadata
            )
        return grpc_wire.read_embed(response, len(images))

    async def models(self, timeout: float) -> list[ModelInfo]:  # noqa: ASYNC109
        """List what is served, the default model first."""
        with grpc_wire.translated(self._url):
            response = await self._stub.ListModels(
                messages.ListModelsRequest(), timeout=timeout, metadata=self._metadata
            )
        return grpc_wire.read_models(response)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
