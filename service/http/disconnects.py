"""Cancel the work for callers that close their connections."""

import asyncio

from starlette.types import Receive

from service.core.timeouts import SharedTimer

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for callers that have gone; only metrics and logs see it."""

_UNWATCHED = 0.25
"""Seconds before a caller is watched; most responses are sent by then, also on busy machines."""


class CallerGone(Exception):
    """The caller closed the connection before the response."""


class Disconnects:
    """Watches for callers that close their connections; one timer starts all watchers."""

    def __init__(self) -> None:
        self._alarms = SharedTimer(_UNWATCHED)

    def watched(self, receive: Receive) -> "_Watched":
        """Cancel the block when the caller closes the connection. The request's body must have been read.

        Raises:
            CallerGone: the caller closed it.
        """
        return _Watched(receive, self._alarms)


class _Watched:
    """A class, since a generator costs more, and every computed image passes here."""

    __slots__ = ("_alarm", "_alarms", "_gone", "_receive", "_watching", "_working")

    def __init__(self, receive: Receive, alarms: SharedTimer) -> None:
        self._receive = receive
        self._alarms = alarms
        self._gone = False
        self._watching: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        working = asyncio.current_task()
        assert working is not None  # noqa: S101, for mypy: this runs in a coroutine
        self._working = working
        self._alarm = self._alarms.set(self._begin)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._alarms.stop(self._alarm)
        if self._watching is not None:
            self._watching.cancel()
        if self._gone and kind is asyncio.CancelledError:
            self._working.uncancel()
            raise CallerGone from None

    def _begin(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._working.cancel()
