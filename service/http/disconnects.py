"""How long a request may take, and whether its caller still waits for it."""

import asyncio
import math

from starlette.requests import Request
from starlette.types import Receive

from service.core.timeouts import SharedTimer
from service.errors import BadRequest
from service.http.head import head

HEADER = "X-Request-Timeout"
_HEADER = HEADER.lower().encode()

_UNWATCHED = 0.25
"""Seconds after which a caller is watched: most answers are out by then, also where many share the processors."""


class CallerGone(Exception):
    """The caller closed the connection before the answer; nobody is there to be told."""


def allowed(request: Request, longest: float) -> float:
    """Return the seconds that the request may take: what its caller says, but no more than `longest`.

    Raises:
        BadRequest: the header is no number of seconds greater than 0.
    """
    header = head(request.scope).get(_HEADER)
    if header is None:
        return longest
    told = header.decode("latin-1")
    try:
        seconds = float(told)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise BadRequest(f"Expected {HEADER} to be seconds, such as 2.5; received {told[:40]!r}.")
    return min(seconds, longest)


class Callers:
    """Watches over callers who wait, each from a while after it began to; one timer for all."""

    def __init__(self) -> None:
        self._alarms = SharedTimer(_UNWATCHED)

    def waiting(self, receive: Receive) -> "_Waiting":
        """Cancel the block when the caller closes the connection. The request's body must have been read.

        Raises:
            CallerGone: it did.
        """
        return _Waiting(receive, self._alarms)


class _Waiting:
    """No generator, which costs more: it runs with every image that is computed."""

    __slots__ = ("_alarm", "_alarms", "_gone", "_receive", "_watching", "_working")

    def __init__(self, receive: Receive, alarms: SharedTimer) -> None:
        self._receive = receive
        self._alarms = alarms
        self._gone = False
        self._watching: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        working = asyncio.current_task()
        assert working is not None  # noqa: S101, for mypy: we are in a coroutine
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
