"""How long a request may take, and whether its caller still waits for it."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from service.errors import BadRequest
from service.http_api.head import head

HEADER = "X-Request-Timeout"
_HEADER = HEADER.lower().encode()

_UNWATCHED = 0.05
"""Seconds after which a caller is watched: most answers are out by then, and a task costs more than a timer."""


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


@asynccontextmanager
async def caller_waiting(request: Request) -> AsyncIterator[None]:
    """Cancel the block when the caller closes the connection. The request's body must have been read.

    Raises:
        CallerGone: it did.
    """
    working = asyncio.current_task()
    assert working is not None  # noqa: S101, for mypy: we are in a coroutine
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        working.cancel()

    loop = asyncio.get_running_loop()
    watching: list[asyncio.Task[None]] = []
    timer = loop.call_later(_UNWATCHED, lambda: watching.append(loop.create_task(watch())))
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        working.uncancel()
        raise CallerGone from None
    finally:
        timer.cancel()
        for task in watching:
            task.cancel()
