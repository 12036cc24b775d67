"""Commands over one connection to Redis or Valkey, as many under way as there are: asked in order, answered in order.

redis-py opens the connection, with all that an address can say of TLS, passwords, databases and Sentinel. From then on
it is ours: a command through redis-py passes its pool, its retries, its timers and its streams, which costs more than
all else that a lookup does.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from service.core.timeouts import ONE_TURN
from service.errors import CacheUnavailable

Command = tuple[str | bytes | int, ...]


class _Asked(NamedTuple):
    answer: asyncio.Future[list[Any]]
    commands: int
    values: int | None
    replies: list[Any]
    until: float


class Line(asyncio.Protocol):
    """A connection that has logged in. Whatever goes wrong ends it: who knows to whom the next answer belongs?"""

    def __init__(self, connection: AbstractConnection, timeout: float) -> None:
        """Take a connection over from redis-py; `timeout` is in seconds and for each answer."""
        # redis-py has no word for this: taken out of its connection, which would close what it forgets.
        theirs: Any = connection
        self._writer, theirs._writer, theirs._reader = theirs._writer, None, None  # noqa: SLF001
        self._transport: asyncio.Transport = self._writer.transport
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._asked: deque[_Asked] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        """Whether it can be asked."""
        return not self._transport.is_closing()

    def ask(self, commands: Sequence[Command], values: int | None = None) -> asyncio.Future[list[Any]]:
        """Send commands, to be answered in their order; fails with `CacheUnavailable`, an error to any included.

        Args:
            commands: at least one.
            values: how many values each is to be answered by, where that is known: what is no such list is no answer.
        """
        answer: asyncio.Future[list[Any]] = self._loop.create_future()
        until = self._loop.time() + self._timeout
        self._asked.append(_Asked(answer, len(commands), values, [], until))
        if self._timer is None:
            self._timer = self._loop.call_at(until, self._look)
        # Its stubs know tuples of one.
        self._transport.write(b"".join([hiredis.pack_command(command) for command in commands]))  # type: ignore[arg-type]
        return answer

    def end(self, reason: str) -> None:
        """Close it; who still waits is told the reason."""
        self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        asked, self._asked = self._asked, deque()
        for each in asked:
            if not each.answer.done():
                each.answer.set_exception(CacheUnavailable(reason))

    def data_received(self, data: bytes) -> None:
        """Asyncio's: pieces of answers."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                # What a server says of its own accord, in the third version of the protocol, answers nothing.
                if not isinstance(reply, hiredis.PushNotification):
                    self._answered(reply)
        except hiredis.HiredisError as error:
            self.end(f"No answer in Redis' protocol: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        """Asyncio's."""
        self.end(f"Connection closed by server: {error or 'at its end'}")

    def _answered(self, reply: object) -> None:
        if not self._asked:
            self.end("Redis answered what nobody asked.")
            return
        if isinstance(reply, hiredis.ReplyError):
            # Of a master that became a replica, of a password that changed: the next connection is another one.
            self.end(str(reply))
            return
        asked = self._asked[0]
        if asked.values is not None and not (isinstance(reply, list) and len(reply) == asked.values):
            self.end(f"Expected {asked.values} values, received {str(reply)[:100]}")
            return
        asked.replies.append(reply)
        if len(asked.replies) == asked.commands:
            self._asked.popleft()
            if not asked.answer.done():
                asked.answer.set_result(asked.replies)

    def _look(self) -> None:
        """Set one timer for all that is asked: it is always the oldest whose time is over first."""
        self._timer = None
        if not self._asked:
            return
        oldest = self._asked[0]
        if oldest.until <= self._loop.time():
            # Where we stood still ourselves, the answer may be here and unread: timers come before sockets.
            self._timer = self._loop.call_later(ONE_TURN, self._give_up, oldest)
        else:
            self._timer = self._loop.call_at(oldest.until, self._look)

    def _give_up(self, overdue: _Asked) -> None:
        if self._asked and self._asked[0] is overdue:
            self.end(f"no answer within {self._timeout} s")
        else:
            self._look()


class Lines:
    """The line of one kind of commands: opened when first needed, and anew after it has ended."""

    def __init__(self, client: Redis, timeout: float) -> None:
        """Open lines as `client` opens its connections."""
        self._pool = client.connection_pool
        self._timeout = timeout
        self._line: Line | None = None
        self._opening: asyncio.Task[Line] | None = None

    async def run(self, commands: Sequence[Command], values: int | None = None) -> list[Any]:
        """Return the answers in the order of the commands; see `Line.ask`.

        Raises:
            CacheUnavailable: no answer in time, none that is right, or an error to any of them.
            RedisError, OSError: no connection.
        """
        line = self._line
        if line is None or not line.usable:
            line = await self._opened()
        return await line.ask(commands, values)

    def close(self) -> None:
        """Close the line."""
        if self._opening is not None:
            self._opening.cancel()
        if self._line is not None:
            self._line.end("The cache is closed.")

    async def _opened(self) -> Line:
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="redis line")
            self._opening.add_done_callback(self._settled)
        # Others wait for it, too, when this one goes away.
        return await asyncio.shield(self._opening)

    async def _open(self) -> Line:
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
        except BaseException:
            # redis-py leaves the socket open when it is cancelled while it logs in.
            await connection.disconnect(nowait=True)
            raise
        self._line = Line(connection, self._timeout)
        return self._line

    def _settled(self, opening: asyncio.Task[Line]) -> None:
        self._opening = None
        if not opening.cancelled():
            # Looked at, lest asyncio complains of an error that nobody stayed for.
            opening.exception()
