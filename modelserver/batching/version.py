"""A loaded version of a model, which is not unloaded while it is in use."""

import asyncio

from modelserver.batching.limits import BatchLimits
from modelserver.engines.engine import LoadedModel
from modelserver.tensors.signatures import DEFAULT_BOUNDS, Bounds


class Version:
    """One loaded version of one model. Belongs to the event loop, except for ``model``.

    Args:
        name: The model's name.
        number: The version's number.
        model: Executes it.
        limits: How its requests are batched; None runs each by itself.
        bounds: What one of them may hold.
        engine: What computes it, and why.
    """

    def __init__(  # noqa: PLR0913, the parts of a version
        self,
        name: str,
        number: int,
        model: LoadedModel,
        limits: BatchLimits | None = None,
        *,
        bounds: Bounds = DEFAULT_BOUNDS,
        engine: str = "",
    ) -> None:
        self.name = name
        self.number = number
        self.model = model
        self.limits = limits
        self.bounds = bounds
        self.engine = engine
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def acquire(self) -> None:
        """Keep the version loaded until ``release``."""
        self._users += 1
        self._idle.clear()

    def release(self) -> None:
        """Undo one ``acquire``."""
        self._users -= 1
        if not self._users:
            self._idle.set()

    async def drained(self) -> None:
        """Wait until it is not in use. The caller must prevent new users."""
        await self._idle.wait()
