"""What a client needs of a transport: one attempt at a time, in the client's own words."""

from collections.abc import Sequence
from typing import Protocol

from microtome.client.options import EmbedOptions
from microtome.client.outcomes import Answer, ModelInfo


class Transport(Protocol):
    """One attempt; whatever goes wrong is a `MicrotomeError`."""

    def embed(self, images: Sequence[bytes], options: EmbedOptions, timeout: float) -> Answer:
        """Embed the images of one request; a bad one is answered by its error."""
        ...

    def models(self, timeout: float) -> list[ModelInfo]:
        """List what is served, the default model first."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class AsyncTransport(Protocol):
    """The same for asyncio."""

    async def embed(self, images: Sequence[bytes], options: EmbedOptions, timeout: float) -> Answer:  # noqa: ASYNC109
        """Embed the images of one request; a bad one is answered by its error."""
        ...

    async def models(self, timeout: float) -> list[ModelInfo]:  # noqa: ASYNC109
        """List what is served, the default model first."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
