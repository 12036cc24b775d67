"""Model servers behind one name: a DNS server of the test's own, real processes on loopback addresses, one port."""

import os
import shutil
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.drill.names import Names
from tests.e2e.processes import ModelServer, free_port

NAME = "model-server"


class NamedServer(ModelServer):
    """A model server at a loopback address, over a models directory of its own."""

    def __init__(self, directory: Path, host: str, port: int, models: Path) -> None:
        self.name = f"model server {host}"
        (directory / host).mkdir()
        own = Path(shutil.copytree(models, directory / host / "models", copy_function=os.link))
        super().__init__(directory / host, own)
        self.host, self.port = host, port

    def words(self) -> list[str]:
        """As its base, but on TCP."""
        mine = [f"--host={self.host}", f"--port={self.port}"]
        return [*(word for word in super().words() if not word.startswith(("--port", "--grpc_socket"))), *mine]

    def serving(self) -> bool:
        """Whether its port is open, which it is once the models are loaded."""
        with socket.socket() as asking:
            return asking.connect_ex((self.host, self.port)) == 0

    def publish(self, version: Path) -> None:
        """Put a version among its models, whole at once."""
        draft = self.models / "lite0" / f"{version.name}.draft"
        shutil.copytree(version, draft, copy_function=os.link)
        draft.rename(draft.with_suffix(""))


class Servers:
    """Model servers that come and go, and the name that stands for some of them."""

    def __init__(self, directory: Path, models: Path) -> None:
        self.directory, self.models = directory, models
        self.port = free_port()
        # A network of this run's own among the loopback addresses, so that the port is free on each of them.
        self.network = f"127.{os.getpid() >> 8 & 0x7F | 0x80}.{os.getpid() & 0xFF}"
        self.names = Names(f"{self.network}.1", NAME)
        self.address = f"dns://{self.names.authority}/{NAME}:{self.port}"
        self.all: list[NamedServer] = []

    def __enter__(self) -> Self:
        self.names.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for server in self.all:
            server.destroy()
        self.names.__exit__(kind, error, at)

    def begin(self, models: Path | None = None) -> NamedServer:
        """Start one at the next address; the name does not stand for it yet."""
        host = f"{self.network}.{len(self.all) + 2}"
        self.all.append(NamedServer(self.directory, host, self.port, models or self.models))
        self.all[-1].launch()
        return self.all[-1]

    def name(self, *servers: NamedServer | str) -> None:
        """Have the name stand for these, once they serve."""
        for server in servers:
            if isinstance(server, NamedServer):
                server.until_serving()
        self.names.ready = tuple(one if isinstance(one, str) else one.host for one in servers)

    def serving(self) -> list[NamedServer]:
        """The servers that the name stands for."""
        return [server for server in self.all if server.host in self.names.ready]
