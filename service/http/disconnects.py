"""How long a request may take, and whether its caller is still connected."""

import asyncio
import math

from starlette.types import Receive, Scope

from service.core.timeouts import SharedTimer
from service.errors import BadRequest
from service.http.middleware import headers_of

HEADER = "X-Request-Timeout"
_HEADER = HEADER.lower().encode()

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for callers that have gone; only metrics and logs see it."""

_UNWATCHED = 0.25
"""Seconds before a caller is watched; most responses are sent by then, also on busy machines."""


class CallerGone(Exception):
    """The caller closed the connection before the response."""


def seconds_allowed(scope: Scope, longest: float) -> float:
    """Return the seconds that the request may take: its X-Request-Timeout, but at most `longest`.

    Raises:
        BadRequest: the header is not a number of seconds greater than 0.
    """
    header = headers_of(scope).get(_HEADER)
    if header is None:
        return longest
    text = header.decode("latin-1")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise BadRequest(f"Expected {HEADER} to be seconds, such as 2.5; received {text[:40]!r}.")
    return min(seconds, longest)


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
