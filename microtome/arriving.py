"""Bounds the memory of gRPC messages that have not come whole.

gRPC collects a message until it is complete and says nothing of it before; callers that send large ones slowly, or
never to their end, hold up to a whole message for each call. So what a connection has received, by the kernel's count,
is compared with what calls were handed; where the difference of all connections is too much, those who hold most lose
their calls. Only Linux counts (tcp_info in linux/tcp.h, `tcpi_bytes_received`); elsewhere nothing is bounded here.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heapreplace
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote

_PAUSE = 0.1
"""Seconds between two looks; a message that comes faster costs no look at its connection."""

_HEAD = 512
"""Bytes of a call apart from its message. What is more counts as received until no older message is on its way."""

_MOST_CONNECTIONS = 10_000
"""Whose counts are kept, of about 400 bytes."""

_MOST_SEARCHES = 3
"""For a connection that is not found: sockets of files, and systems without /proc."""

_TCP_INFO, _RECEIVED_AT = 232, 128


class NotWhole(Exception):
    """A message was on its way for too long while too much memory was held by such messages."""


class _Connection:
    __slots__ = ("descriptor", "handed", "handed_before", "held", "missed", "peer", "reads", "received")

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.reads: dict[_Reading, None] = {}
        self.descriptor, self.missed = -1, 0
        self.handed = self.handed_before = self.received = self.held = 0

    def count(self, received: int, largest: int) -> None:
        """Compare what has come with what was handed over; each line is a bound of what is held."""
        if received < self.received:
            # Another connection of the same port.
            self.held = self.received = 0
        fresh, given = received - self.received, self.handed - self.handed_before
        self.received, self.handed_before = received, self.handed
        self.held = min(
            max(0, self.held + fresh - given),
            received - min(read.received for read in self.reads),
            len(self.reads) * largest,
        )


class _Reading:
    """A message that is awaited while the block runs."""

    __slots__ = ("_arriving", "_before", "caller", "connection", "looks", "over", "received", "task")

    def __init__(self, arriving: "Arriving", connection: _Connection, caller: str) -> None:
        self._arriving = arriving
        self.over = False
        self.connection = connection
        self.caller = caller
        self.task: asyncio.Task[object] | None = None

    def __enter__(self) -> None:
        self.task = asyncio.current_task()
        assert self.task is not None  # noqa: S101, for mypy: we are in a coroutine
        self._before = self.task.cancelling()
        self.looks, self.received = self._arriving.looks, self.connection.received
        self.connection.reads[self] = None
        self._arriving.look_later()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self.connection.reads[self]
        task, self.task = self.task, None
        # A task that was cancelled from elsewhere too stays cancelled.
        if task and self.over and task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise NotWhole from error

    def end(self) -> None:
        """Cancel the block, which then raises NotWhole."""
        if self.task is not None and not self.over:
            self.over = True
            self.task.cancel()


class Arriving:
    """What gRPC holds of messages that have not come whole. For one event loop; no locks.

    Attributes:
        looks: how many times it has been looked at.
    """

    def __init__(self, allowed: Callable[[], int], largest: int) -> None:
        """Hold nothing yet.

        Args:
            allowed: returns the bytes that may be held now.
            largest: bytes of the largest message.
        """
        self.looks = 0
        self._allowed = allowed
        self._largest = largest
        self._connections: dict[str, _Connection] = {}
        self._timer: asyncio.TimerHandle | None = None

    def reading(self, peer: str, caller: str) -> _Reading:
        """Return the block in which a message is awaited; `handed` follows when it has come.

        Args:
            peer: the connection's other end, as gRPC writes it.
            caller: whose message it is.

        Raises:
            NotWhole: by the block: too much memory is held, and most of it by this caller.
        """
        return _Reading(self, self._connections.get(peer) or self._added(peer), caller)

    def handed(self, peer: str, amount: int) -> None:
        """Count a message that has come whole."""
        if (connection := self._connections.get(peer)) is not None:
            connection.handed += amount + _HEAD

    def _added(self, peer: str) -> _Connection:
        if len(self._connections) >= _MOST_CONNECTIONS:
            # The oldest without a call; its count begins again with its next one.
            idle = next((name for name, each in self._connections.items() if not each.reads), None)
            if idle is not None:
                del self._connections[idle]
        return self._connections.setdefault(peer, _Connection(peer))

    def look_later(self) -> None:
        """Look in a moment, unless that has been arranged."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE, self._look)

    def held(self) -> int:
        """Return the bytes that were held when it was looked at last."""
        return sum(connection.held for connection in self._connections.values() if connection.reads)

    def _look(self) -> None:
        self._timer = None
        self.looks += 1
        reading = [each for each in self._connections.values() if each.reads]
        if not reading:
            return
        self.look_later()
        slow = [each for each in reading if min(read.looks for read in each.reads) < self.looks - 1]
        if not slow:
            return
        _find([each for each in slow if each.missed < _MOST_SEARCHES and _received(each) is None])
        counted = [(each, received) for each in slow if (received := _received(each)) is not None]
        for each, received in counted:
            each.count(received, self._largest)
        self._bound([each for each, _ in counted if each.held])

    def _bound(self, connections: list[_Connection]) -> None:
        """End messages until no more is held than may be.

        Of the caller that holds most, the latest on the connection that holds most. Which of a connection's messages
        has its bytes is not known, so each counts alike here, and what it counted for is only believed to be free when
        so many have ended that the others cannot hold more.
        """
        total, allowed = sum(each.held for each in connections), self._allowed()
        if total <= allowed:
            return
        awaited: dict[str, list[tuple[int, int, _Reading]]] = {}
        for each in connections:
            share = each.held // len(each.reads)
            for number, read in enumerate(each.reads):
                awaited.setdefault(read.caller, []).append((share, number, read))
        callers = [(-sum(share for share, *_ in reads), caller) for caller, reads in awaited.items()]
        heapify(callers)
        for reads in awaited.values():
            reads.sort(key=itemgetter(0, 1))
        while callers and total > allowed:
            held, caller = callers[0]
            share, _, read = awaited[caller].pop()
            read.end()
            total -= share
            if awaited[caller]:
                heapreplace(callers, (held + share, caller))
            else:
                heappop(callers)


def _address(peer: str) -> tuple[str, int]:
    """Return the address and port of `ipv4:10.0.0.1:80` or `ipv6:%5B::1%5D:80`."""
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return host.strip("[]").partition("%")[0], int(port) if port.isdigit() else 0


def _other_end(connection: socket.socket) -> tuple[str, int]:
    host, port, *_ = connection.getpeername()
    return host.removeprefix("::ffff:").partition("%")[0], port


def _received(connection: _Connection) -> int | None:
    """Return the bytes that a connection has received; None if it is not known where it is, or cannot be counted."""
    if connection.descriptor < 0:
        return None
    try:
        # Of another owner: it is looked at and not closed.
        shared = socket.socket(fileno=connection.descriptor)
    except OSError:
        return None
    try:
        if _other_end(shared) != _address(connection.peer):
            return None
        raw = shared.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO)
        return int(struct.unpack_from("=Q", raw, _RECEIVED_AT)[0])
    except (OSError, ValueError, TypeError, struct.error):
        return None
    finally:
        shared.detach()


def _find(connections: Iterable[_Connection]) -> None:
    """Look for the file descriptors of connections, which gRPC does not tell."""
    wanted = {_address(each.peer): each for each in connections}
    for each in wanted.values():
        each.missed += 1
    if not wanted or not hasattr(socket, "TCP_INFO"):
        return
    try:
        names = [path.name for path in Path("/proc/self/fd").iterdir()]
    except OSError:
        return
    for name in names:
        try:
            shared = socket.socket(fileno=int(name))
        except OSError:
            continue
        try:
            found = wanted.get(_other_end(shared))
        except (OSError, ValueError):
            continue
        finally:
            shared.detach()
        if found is not None:
            found.descriptor, found.missed = int(name), 0
