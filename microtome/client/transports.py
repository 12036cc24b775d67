"""Calls of a gateway, the same for both clients: a call is sent, perhaps several times, and its response is read."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from microtome.client.images import Body
from microtome.client.options import EmbedOptions
from microtome.client.results import BatchResult, ModelInfo

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One call.

    Attributes:
        send: makes an attempt of at most so many seconds; returns the response, or an awaitable of it for asyncio.
        read: reads the response; every failure is a `MicrotomeError`.
    """

    send: Callable[[float], Any]
    read: Callable[[Any], R]


class Transport(Protocol):
    """Connections to one gateway, for ordinary code or for asyncio."""

    def embed(self, images: Sequence[Body], options: EmbedOptions) -> Call[BatchResult]:
        """Embed the images of one request, or regions of them; a bad one has an error in its place."""
        ...

    def models(self) -> Call[list[ModelInfo]]:
        """List what is served, the default model first."""
        ...

    def translated(self) -> AbstractContextManager[None]:
        """Translate errors of the library within the block into a `MicrotomeError`."""
        ...

    def close(self) -> Any:  # noqa: ANN401, an awaitable for asyncio
        """Close all connections."""
        ...
