"""One attempt over HTTP, for both clients."""

from collections.abc import Sequence

import httpx

from microtome.client import http_wire
from microtome.client.options import EmbedOptions
from microtome.client.outcomes import Answer, ModelInfo


class HttpTransport:
    """Keeps connections open between requests; safe to use from many threads."""

    def __init__(self, url: str, api_key: str | None, ca_file: str | None) -> None:
        self._url = url
        self._client = httpx.Client(**http_wire.connection_options(url, api_key, ca_file))

    def embed(self, images: Sequence[bytes], options: EmbedOptions, timeout: float) -> Answer:
        """Embed the images of one request; a bad one is answered by its error."""
        with http_wire.translated(self._url):
            response = self._client.request(**http_wire.embed_request(images, options, timeout))
        return http_wire.read_embed(response, len(images), options)

    def models(self, timeout: float) -> list[ModelInfo]:
        """List what is served, the default model first."""
        with http_wire.translated(self._url):
            response = self._client.get("/models", timeout=timeout)
        return http_wire.read_models(response)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


class AsyncHttpTransport:
    """The same for asyncio."""

    def __init__(self, url: str, api_key: str | None, ca_file: str | None) -> None:
        self._url = url
        self._client = httpx.AsyncClient(**http_wire.connection_options(url, api_key, ca_file))

    async def embed(self, images: Sequence[bytes], options: EmbedOptions, timeout: float) -> Answer:  # noqa: ASYNC109
        """Embed the images of one request; a bad one is answered by its error."""
        with http_wire.translated(self._url):
            response = await self._client.request(**http_wire.embed_request(images, options, timeout))
        return http_wire.read_embed(response, len(images), options)

    async def models(self, timeout: float) -> list[ModelInfo]:  # noqa: ASYNC109
        """List what is served, the default model first."""
        with http_wire.translated(self._url):
            response = await self._client.get("/models", timeout=timeout)
        return http_wire.read_models(response)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
