"""What of a request's body is there already, without waiting for the rest, and so without a timer."""

from collections.abc import Awaitable, Generator
from functools import partial
from typing import Any

from starlette.types import Message, Receive


class Arrived:
    """Takes the first message of a body if it is there; else, and for all others, is a `receive` like the server's.

    Small bodies come with their heads, so the server has them when it calls. A `receive` that would have to wait is
    left where it waits, and goes on from there when it is called: whoever awaits it then does so with timers set.
    """

    __slots__ = ("_first", "_receive", "_waiting", "_waits_for")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._first: Message | None = None
        self._waiting: Generator[Any, Any, Message] | None = receive().__await__()
        self._waits_for: Any = None
        try:
            self._waits_for = next(self._waiting)
        except StopIteration as done:
            self._waiting = None
            self._first = done.value

    def whole_body(self) -> bytes | None:
        """Return the body if all of it is there."""
        first = self._first
        if first is None or first["type"] != "http.request" or first.get("more_body", False):
            return None
        body: bytes = first.get("body", b"")
        return body

    def __call__(self) -> Awaitable[Message]:
        """Receive the next message, the first one included."""
        if self._first is not None or self._waiting is not None:
            return _Begun(self)
        return self._receive()

    def close(self) -> None:
        """End a `receive` that was begun and that nobody has waited for."""
        if self._waiting is not None:
            self._waiting.close()

    def go_on(self) -> Generator[Any, Any, Message]:
        """Return the first message, waiting for it where it was left."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        waiting, self._waiting = self._waiting, None
        assert waiting is not None  # noqa: S101, for mypy: one of the two is there
        # As `yield from` would, had it begun here: the event loop sees what is waited for, and what it answers, errors
        # and cancellation included, goes to who waits.
        waits_for = self._waits_for
        while True:
            try:
                answer = yield waits_for
            except BaseException as error:  # noqa: BLE001, it is theirs
                step = partial(waiting.throw, error)
            else:
                step = partial(waiting.send, answer)
            try:
                waits_for = step()
            except StopIteration as done:
                message: Message = done.value
                return message


class _Begun:
    """Awaitable of the first message."""

    __slots__ = ("_arrived",)

    def __init__(self, arrived: Arrived) -> None:
        self._arrived = arrived

    def __await__(self) -> Generator[Any, Any, Message]:
        return self._arrived.go_on()
