"""The cluster's DNS, as far as a headless Service goes: one name, and the addresses of the pods that are ready."""

import socketserver
import struct
import threading
from types import TracebackType
from typing import Self

_HEADER = struct.Struct(">HHHHHH")
_ADDRESS = 1
_ANSWER, _NO_SUCH_NAME = 0x8580, 0x8583
_SECONDS = 5


class Names(socketserver.ThreadingUDPServer):
    """Answers for one name; every other does not exist."""

    daemon_threads = True

    def __init__(self, host: str, name: str) -> None:
        super().__init__((host, 0), _Question)
        self.name = name
        self.ready: tuple[str, ...] = ()
        """Addresses that the name stands for."""

    @property
    def authority(self) -> str:
        """Whom gRPC is to ask: `dns://authority/name:port`."""
        return "{}:{}".format(*self.socket.getsockname())

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.shutdown()
        self.server_close()


class _Question(socketserver.BaseRequestHandler):
    server: Names

    def handle(self) -> None:
        data, socket = self.request
        labels, at = [], _HEADER.size
        while size := data[at]:
            labels.append(data[at + 1 : at + 1 + size].decode())
            at += size + 1
        question = data[_HEADER.size : at + 5]
        known = ".".join(labels).lower() == self.server.name
        asked_for = struct.unpack(">H", data[at + 1 : at + 3])[0]
        found = self.server.ready if known and asked_for == _ADDRESS else ()
        answers = b"".join(
            struct.pack(">HHHIH", 0xC00C, _ADDRESS, 1, _SECONDS, 4) + bytes(map(int, address.split(".")))
            for address in found
        )
        number = struct.unpack(">H", data[:2])[0]
        head = _HEADER.pack(number, _ANSWER if known else _NO_SUCH_NAME, 1, len(found), 0, 0)
        socket.sendto(head + question + answers, self.client_address)
