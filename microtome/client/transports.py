"""The transport of an address: http and https call POST /embed, grpc and grpcs the EmbeddingService."""

import importlib
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

from microtome.client.options import EmbedOptions
from microtome.client.results import BatchResult, ModelInfo

_SCHEMES = ("http", "https", "grpc", "grpcs")


class Transport(Protocol):
    """Makes one attempt at a time; every failure is a `MicrotomeError`."""

    def embed(self, images: Sequence[bytes], options: EmbedOptions, timeout: float) -> BatchResult:
        """Embed the images of one request; a bad one has an error in its place."""
        ...

    def models(self, timeout: float) -> list[ModelInfo]:
        """List what is served, the default model first."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class AsyncTransport(Protocol):
    """The same for asyncio."""

    async def embed(self, images: Sequence[bytes], options: EmbedOptions, timeout: float) -> BatchResult:  # noqa: ASYNC109
        """Embed the images of one request; a bad one has an error in its place."""
        ...

    async def models(self, timeout: float) -> list[ModelInfo]:  # noqa: ASYNC109
        """List what is served, the default model first."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


def open_transport(url: str, api_key: str | None, ca_file: str | None) -> Transport:
    """Open a transport; nothing is sent yet.

    Raises:
        ValueError: the address has no known scheme, or no host.
        ImportError: gRPC is not installed.
    """
    if _is_http(url):
        from microtome.client.http import HttpTransport  # noqa: PLC0415, imported only where it is used

        return HttpTransport(url.rstrip("/"), api_key, ca_file)
    transport: Transport = _grpc().GrpcTransport(url.rstrip("/"), api_key, ca_file)
    return transport


def open_async_transport(url: str, api_key: str | None, ca_file: str | None) -> AsyncTransport:
    """Open a transport for asyncio; see `open_transport`."""
    if _is_http(url):
        from microtome.client.http import AsyncHttpTransport  # noqa: PLC0415

        return AsyncHttpTransport(url.rstrip("/"), api_key, ca_file)
    transport: AsyncTransport = _grpc().AsyncGrpcTransport(url.rstrip("/"), api_key, ca_file)
    return transport


def _is_http(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(f"Expected an address such as http://host:8000 or grpc://host:8001, received {url!r}.")
    return parts.scheme in {"http", "https"}


def _grpc() -> Any:  # noqa: ANN401, a module
    try:
        return importlib.import_module("microtome.client.grpc")
    except ModuleNotFoundError as error:
        needed = "pip install grpcio protobuf googleapis-common-protos"
        raise ImportError(f"grpc:// addresses need gRPC, which is not installed: {needed}") from error
