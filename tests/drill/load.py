"""Clients that ask without a pause over HTTP and gRPC, and a tally in which every vector has been compared."""

import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

import grpc
import httpx
import numpy as np

from microtome.v1 import embedding_pb2 as pb
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub
from tests.drill.reference import Expected
from tests.e2e.answers import Vector, relative_error, vector
from tests.e2e.photos import NAMES, example, unseen
from tests.e2e.processes import eventually

TOLERANCE = 1e-4
"""Relative error to Keras (design, invariant 1)."""

# The balancer may try again what was not begun; the client does not, or it would hide failures.
_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0))

Ask = Callable[[bytes], tuple[int, Vector]]
"""Sends a photo, and returns the version that answered and its vector."""


class Load:
    """Sends for the length of a `with` block: photos that no cache has seen and known ones in turn."""

    def __init__(self, address: str, key: str, expected: Expected, *, clients: int) -> None:
        self.sent: Counter[str] = Counter()
        self.versions: Counter[int] = Counter()
        self.failed: list[str] = []
        self.wrong: list[str] = []
        self._address = address
        self._headers = (("authorization", f"Bearer {key}"),)
        self._expected = expected
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
        return f"{self.sent.total()} sent ({ways}), {len(self.failed)} failed, {len(self.wrong)} wrong"

    def more(self, answers: int) -> None:
        """Wait until so many further requests have ended on each way."""
        enough = {way: self.sent[way] + answers for way in ("http", "grpc")}
        what = f"{answers} more answers ({self})"
        eventually(lambda: all(self.sent[way] >= count for way, count in enough.items()), what, 120.0)

    def _over_http(self, way: str) -> None:
        with httpx.Client(base_url=f"http://{self._address}", timeout=60.0, trust_env=False) as client:

            def ask(photo: bytes) -> tuple[int, Vector]:
                response = client.post("/embed", content=photo, headers=dict(self._headers))
                assert response.status_code == httpx.codes.OK, f"{response.status_code} {response.text[:300]}"
                return response.json()["version"], vector(response.json())

            self._send(way, ask)

    def _over_grpc(self, way: str) -> None:
        with grpc.insecure_channel(self._address, options=_OPTIONS) as channel:
            stub = EmbeddingServiceStub(channel)

            def ask(photo: bytes) -> tuple[int, Vector]:
                request = pb.EmbedRequest(images=[pb.Image(data=photo)])
                answer = stub.Embed(request, timeout=60.0, metadata=self._headers)
                data = answer.results[0].embeddings[0].data
                return answer.model.version, np.frombuffer(data, "<f4").astype(np.float64)

            self._send(way, ask)

    def _send(self, way: str, ask: Ask) -> None:
        turn = 0
        while not self._over.is_set():
            name = NAMES[turn % len(NAMES)]
            # Two unseen of each known one: a known one costs the model servers nothing.
            photo = example(name) if turn % 3 == 0 else unseen(example(name))
            turn += 1
            try:
                version, found = ask(photo)
            except (AssertionError, httpx.HTTPError, grpc.RpcError) as error:
                with self._lock:
                    self.sent[way] += 1
                    self.failed.append(f"{way}: {error!r}"[:400])
                continue
            off = relative_error(found, self._expected[version, name])
            with self._lock:
                self.sent[way] += 1
                self.versions[version] += 1
                if off > TOLERANCE:
                    self.wrong.append(f"{way}: {name} of version {version}: relative error {off}")
