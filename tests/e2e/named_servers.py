"""Model servers behind one name: a DNS server of the test's own, real processes on loopback addresses, one port."""

import os
import shutil
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import httpx
import numpy as np

from microtome.v1 import embedding_pb2 as pb
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub
from tests.drill.names import Names
from tests.e2e.answers import Vector, relative_error, vector
from tests.e2e.drill import SAME
from tests.e2e.photos import NAMES, example, unseen
from tests.e2e.processes import Gateway, ModelServer, eventually, free_port

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


class BothWays:
    """Callers over HTTP and gRPC that ask without a pause, and a tally of every answer.

    A vector is right when it is the one that its fingerprint had for this photo in `expected`.
    """

    def __init__(self, gateway: Gateway, grpc_port: int, clients: int = 1) -> None:
        self.sent: Counter[str] = Counter()
        self.versions: Counter[tuple[int, str]] = Counter()
        self.failed: list[str] = []
        self.wrong: list[str] = []
        self.seconds: list[float] = []
        self._gateway, self._grpc_port = gateway, grpc_port
        self.expected: dict[tuple[str, str], Vector] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        ways = (("http", self._over_http), ("grpc", self._over_grpc))
        self._threads = [threading.Thread(target=run, args=(way,)) for way, run in ways for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def __str__(self) -> str:
        """The line for the report."""
        ways = " + ".join(f"{count} over {way}" for way, count in sorted(self.sent.items()))
        p99 = statistics.quantiles(self.seconds, n=100)[-1] if len(self.seconds) > 1 else 0.0
        counts = f"{len(self.failed)} failed, {len(self.wrong)} wrong"
        slowest = max(self.seconds, default=0.0)
        return f"{self.sent.total()} sent ({ways}), {counts}, p99 {p99:.2f} s, slowest {slowest:.2f} s"

    def p99(self) -> float:
        """Seconds that 99 of 100 answers took at most."""
        return statistics.quantiles(self.seconds, n=100)[-1]

    def more(self, answers: int) -> None:
        """Wait until so many further requests have ended on each way."""
        enough = {way: self.sent[way] + answers for way in ("http", "grpc")}
        eventually(lambda: all(self.sent[way] >= count for way, count in enough.items()), f"more ({self})", 120.0)

    def until(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        """Wait for something while requests go on."""
        eventually(condition, f"{what} ({self})", seconds)

    def harmless(self) -> None:
        """No request failed, and no vector was wrong."""
        assert not self.failed + self.wrong, f"{self}: {self.failed[:3]} {self.wrong[:3]}"

    def _over_http(self, way: str) -> None:
        with self._gateway.client() as client:

            def ask(photo: bytes) -> tuple[int, str, Vector]:
                response = client.post("/embed?cache=refresh", content=photo, headers={"content-type": "image/jpeg"})
                assert response.status_code == httpx.codes.OK, f"{response.status_code} {response.text[:300]}"
                told = response.json()
                return told["version"], told["fingerprint"], vector(told)

            self._send(way, ask)

    def _over_grpc(self, way: str) -> None:
        options = (("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0))
        with grpc.insecure_channel(f"127.0.0.1:{self._grpc_port}", options=options) as channel:
            stub = EmbeddingServiceStub(channel)

            def ask(photo: bytes) -> tuple[int, str, Vector]:
                answer = stub.Embed(pb.EmbedRequest(images=[pb.Image(data=photo)]), timeout=60.0)
                found = np.frombuffer(answer.results[0].embeddings[0].data, "<f4").astype(np.float64)
                return answer.model.version, answer.model.fingerprint, found

            self._send(way, ask)

    def _send(self, way: str, ask: Callable[[bytes], tuple[int, str, Vector]]) -> None:
        turn = 0
        while not self._over.is_set():
            name = NAMES[turn % len(NAMES)]
            photo = unseen(example(name)) if turn % 2 else example(name)
            turn += 1
            begin = time.monotonic()
            try:
                version, fingerprint, found = ask(photo)
            except (AssertionError, httpx.HTTPError, grpc.RpcError) as error:
                with self._lock:
                    self.sent[way] += 1
                    self.failed.append(f"{way}: {error!r}"[:400])
                continue
            with self._lock:
                self.sent[way] += 1
                self.seconds.append(time.monotonic() - begin)
                self.versions[version, fingerprint] += 1
                off = relative_error(found, self.expected.setdefault((fingerprint, name), found))
                if off > SAME:
                    self.wrong.append(f"{way}: {name} of version {version}: relative error {off}")
