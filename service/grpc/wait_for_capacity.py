"""Wait for room, as streams do where single requests are refused."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from service.errors import DeadlineExceeded, Overloaded, restated

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5
"""Seconds between two attempts."""


class CapacityWaiter:
    """Does work as soon as there is room for it, and knows whether any of it still waits."""

    def __init__(self) -> None:
        self._waiting = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Return as soon as nothing waits for room."""
        await self._idle.wait()

    async def until_done(self, attempt: Callable[[], Awaitable[T]], seconds: float) -> T:
        """Attempt something until it is not refused for lack of room.

        Args:
            attempt: repeated; costs little while it is refused.
            seconds: for all attempts together.

        Raises:
            Overloaded: there was no room in all that time.
            DeadlineExceeded: there was room, and the work took too long.
        """
        refusal: Overloaded | None = None
        pause = _FIRST_PAUSE
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await attempt()
                    except Overloaded as error:
                        if refusal is None:
                            self._wait(1)
                        refusal = error
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        except TimeoutError:
            if refusal is not None:
                raise restated(refusal) from None
            raise DeadlineExceeded(f"No answer within {seconds:g} s, the time allowed for an image.") from None
        finally:
            if refusal is not None:
                self._wait(-1)

    def _wait(self, change: int) -> None:
        self._waiting += change
        if self._waiting:
            self._idle.clear()
        else:
            self._idle.set()
