"""Choose the transport by the address: http and https speak to POST /embed, grpc and grpcs to the EmbeddingService."""

from typing import TypedDict
from urllib.parse import urlsplit

from microtome.client.options import CacheUse, Dtype
from microtome.client.ports import AsyncTransport, Transport

_SCHEMES = ("http", "https", "grpc", "grpcs")


class Wanted(TypedDict, total=False):
    """Options of a call; see `EmbedOptions`, which says what each means."""

    model: str | None
    version: int | None
    normalize: bool
    dimensions: int | None
    dtype: Dtype
    cache: CacheUse


def checked(url: str) -> str:
    """Return an address without what would confuse, such as a slash at its end.

    Raises:
        ValueError: it has no scheme that we speak, or no host.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(f"Expected an address such as http://host:8000 or grpc://host:8001, received {url!r}.")
    return url.rstrip("/")


def transport(url: str, api_key: str | None, ca_file: str | None) -> Transport:
    """Open a transport. Nothing is sent yet."""
    url = checked(url)
    if url.startswith("http"):
        from microtome.client.http_transport import HttpTransport  # noqa: PLC0415, imported by those who use it

        return HttpTransport(url, api_key, ca_file)
    from microtome.client.grpc_transport import GrpcTransport  # noqa: PLC0415

    return GrpcTransport(url, api_key, ca_file)


def async_transport(url: str, api_key: str | None, ca_file: str | None) -> AsyncTransport:
    """Open a transport for asyncio. Nothing is sent yet."""
    url = checked(url)
    if url.startswith("http"):
        from microtome.client.http_transport import AsyncHttpTransport  # noqa: PLC0415

        return AsyncHttpTransport(url, api_key, ca_file)
    from microtome.client.grpc_transport import AsyncGrpcTransport  # noqa: PLC0415

    return AsyncGrpcTransport(url, api_key, ca_file)
