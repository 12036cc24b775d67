"""Callers that send large gRPC messages and never their ends: what the gateway holds for them.

The frames are written by hand (RFC 9113): gRPC's own client would hold as much, and sends no message in part.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from tests.hostile.gateway import KEY, MEMORY, report, running
from tests.hostile.routes import served

_MB = 1 << 20
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
_FRAME = bytes(16_384)
_EMBED = "/microtome.v1.EmbeddingService/Embed"


def _frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def _header(name: str, value: str) -> bytes:
    """Write a header that no table keeps, of at most 126 characters."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


class SlowCalls:
    """A connection with calls that send all of a message but its last bytes.

    Attributes:
        ended: the calls that the server has ended, by their number.
    """

    def __init__(
        self, port: int, calls: int, size: int, *, short: int = 1000, path: str = _EMBED, key: str = ""
    ) -> None:
        """Connect and begin the calls.

        Args:
            port: of 127.0.0.1.
            calls: how many.
            size: bytes that each message is to have.
            short: bytes of them that never come.
            path: the method.
            key: the API key, if one is needed.
        """
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, _MB)))
        self._room, self._first_room = 65_535, 65_535
        self._rooms: dict[int, int] = {}
        self.left: dict[int, int] = {}
        self.ended: set[int] = set()
        self._unread = b""
        known = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "a", "te": "trailers"}
        headers = {**known, "content-type": "application/grpc", **({"x-api-key": key} if key else {})}
        head = b"".join(_header(name, value) for name, value in headers.items())
        for stream in range(1, 2 * calls, 2):
            begin = b"\0" + size.to_bytes(4, "big")
            self._socket.sendall(_frame(_HEADERS, 4, stream, head) + _frame(_DATA, 0, stream, begin))
            self._rooms[stream], self.left[stream] = self._first_room - len(begin), size - short
            self._room -= len(begin)

    def send(self, until: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Send what the server takes until then, as `time.monotonic` counts, until it is enough or it ends."""
        try:
            while time.monotonic() < until and not enough():
                sent = self._send_some()
                self._socket.settimeout(0.001 if sent else 0.05)
                try:
                    received = self._socket.recv(1 << 16)
                except TimeoutError:
                    continue
                if not received:
                    return
                self._read(received)
        except OSError:
            self.ended.update(self.left)

    def close(self) -> None:
        """Close the connection; a thread that sends on it stops."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _send_some(self) -> bool:
        some = False
        for stream, left in self.left.items():
            amount = min(left, self._rooms[stream], self._room, len(_FRAME))
            if stream not in self.ended and amount > 0:
                self._socket.settimeout(10)
                self._socket.sendall(_frame(_DATA, 0, stream, _FRAME[:amount]))
                self.left[stream] -= amount
                self._rooms[stream] -= amount
                self._room -= amount
                some = True
        return some

    def _read(self, received: bytes) -> None:
        self._unread += received
        while len(self._unread) >= 9 and len(self._unread) >= 9 + (size := int.from_bytes(self._unread[:3], "big")):
            kind, flags, stream = self._unread[3], self._unread[4], int.from_bytes(self._unread[5:9], "big")
            body, self._unread = self._unread[9 : 9 + size], self._unread[9 + size :]
            if kind == _WINDOW_UPDATE and not stream:
                self._room += int.from_bytes(body, "big")
            elif kind == _WINDOW_UPDATE:
                self._rooms[stream] += int.from_bytes(body, "big")
            elif kind == _SETTINGS and not flags:
                for number, value in struct.iter_unpack(">HI", body):
                    if number == 4:
                        more, self._first_room = value - self._first_room, value
                        self._rooms = {known: room + more for known, room in self._rooms.items()}
                self._socket.sendall(_frame(_SETTINGS, 1, 0))
            elif kind == _PING and not flags:
                self._socket.sendall(_frame(_PING, 1, 0, body))
            elif kind == _RST_STREAM or (kind == _HEADERS and flags & 1):
                self.ended.add(stream)


def send_all(connections: Sequence[SlowCalls], seconds: float, enough: Callable[[], bool] = lambda: False) -> None:
    """Send on all connections at a time, for so long or until it is enough."""
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=each.send, args=(until, enough)) for each in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def table(seconds: float) -> bool:
    """Print what messages of 60 MB that never end cost, and return whether the gateway lives."""
    report(f"{'connections':>11} {'calls of each':>13} {'MB sent':>8} {'ended':>6} {'peak MB':>8}")
    for connections, calls in ((2, 1), (30, 1), (3, 10), (1, 100), (20, 10)):
        with running() as gateway:
            served(gateway)
            senders = [SlowCalls(gateway.grpc, calls, 60 * _MB, key=KEY) for _ in range(connections)]
            send_all(senders, seconds)
            sent = sum(60 * _MB - left for each in senders for left in each.left.values()) / _MB
            ended = sum(len(each.ended) for each in senders)
            if not gateway.process.is_alive():
                report(f"{connections:11} {calls:13} {sent:8.0f} the gateway died of its {MEMORY >> 20} MB")
                return False
            report(f"{connections:11} {calls:13} {sent:8.0f} {ended:6} {gateway.peak():8.0f}")
            for each in senders:
                each.close()
    return True
