"""A version in memory, and the promise that it stays there while someone uses it."""

import asyncio

from modelserver.batch_limits import BatchLimits
from modelserver.engine import LoadedModel


class Servable:
    """One loaded version of one model. Lives on the event loop, except for ``model``.

    Args:
        name: The model's name.
        version: The version's number.
        model: What executes it.
        limits: How its requests are batched; None runs each by itself.
    """

    def __init__(self, name: str, version: int, model: LoadedModel, limits: BatchLimits | None = None) -> None:
        self.name = name
        self.version = version
        self.model = model
        self.limits = limits
        self._holders = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def acquire(self) -> None:
        """Keep the version loaded until ``release``."""
        self._holders += 1
        self._idle.clear()

    def release(self) -> None:
        """Give back one ``acquire``."""
        self._holders -= 1
        if not self._holders:
            self._idle.set()

    async def drained(self) -> None:
        """Wait until nobody holds it. New holders must be kept away by the caller."""
        await self._idle.wait()
