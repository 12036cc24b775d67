"""Callers over HTTP and gRPC that ask without a pause while a test breaks things, and a tally of every answer."""

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import grpc
import httpx
import numpy as np

from microtome.v1 import embedding_pb2 as pb
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub
from tests.e2e.answers import Vector, relative_error, vector
from tests.e2e.drill import SAME, Sending
from tests.e2e.photos import NAMES, example, unseen
from tests.e2e.processes import eventually

# A balancer may try again what was not begun; the client does not, or it would hide failures.
_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0))


class Answer(NamedTuple):
    """What came back for a photo."""

    version: int
    fingerprint: str
    vector: Vector


Reference = Callable[[str, Answer], Vector]
"""Returns what an answer to the photo of this name should have been."""


class Load(Sending):
    """Sends for the length of a `with` block: known photos, and photos that no cache has seen.

    Attributes:
        sent: requests by `http` and `grpc`.
        versions: answers by version and fingerprint.
        failed: what went wrong.
        wrong: vectors that are not those of the reference.
        seconds: of each answer.
    """

    def __init__(
        self,
        url: str,
        target: str,
        *,
        clients: int = 1,
        key: str | None = None,
        query: str = "",
        unseen_of: tuple[int, int] = (1, 2),
        reference: Reference | None = None,
        tolerance: float = SAME,
    ) -> None:
        """Begin with the block.

        Args:
            url: of HTTP.
            target: of gRPC.
            clients: on each of both ways.
            key: for the API.
            query: of POST /embed.
            unseen_of: how many photos of how many are unseen.
            reference: None for the first vector that this fingerprint had for the photo.
            tolerance: relative error from which a vector is wrong.
        """
        self.sent: Counter[str] = Counter()
        self.versions: Counter[tuple[int, str]] = Counter()
        self.failed: list[str] = []
        self.wrong: list[str] = []
        self.seconds: list[float] = []
        self._url, self._target, self._query = url, target, query
        self._headers = (("authorization", f"Bearer {key}"),) if key else ()
        self._unseen_of = unseen_of
        self._first: dict[tuple[str, str], Vector] = {}
        self._reference = reference or self._as_before
        self._tolerance = tolerance
        ways = (("http", self._over_http), ("grpc", self._over_grpc))
        super().__init__([threading.Thread(target=run, args=(way,)) for way, run in ways for _ in range(clients)])

    def __str__(self) -> str:
        """The line for the report."""
        ways = " + ".join(f"{count} over {way}" for way, count in sorted(self.sent.items()))
        counts = f"{len(self.failed)} failed, {len(self.wrong)} wrong"
        slowest = max(self.seconds, default=0.0)
        return f"{self.sent.total()} sent ({ways}), {counts}, p99 {self.p99():.2f} s, slowest {slowest:.2f} s"

    def p99(self) -> float:
        """Seconds that 99 of 100 answers took at most."""
        return statistics.quantiles(self.seconds, n=100)[-1] if len(self.seconds) > 1 else 0.0

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
        headers = {"content-type": "image/jpeg", **dict(self._headers)}
        with httpx.Client(base_url=self._url, headers=headers, timeout=60.0, trust_env=False) as client:

            def ask(photo: bytes) -> Answer:
                response = client.post(f"/embed{self._query}", content=photo)
                assert response.status_code == httpx.codes.OK, f"{response.status_code} {response.text[:300]}"
                told = response.json()
                return Answer(told["version"], told["fingerprint"], vector(told))

            self._send(way, ask)

    def _over_grpc(self, way: str) -> None:
        with grpc.insecure_channel(self._target, options=_OPTIONS) as channel:
            stub = EmbeddingServiceStub(channel)

            def ask(photo: bytes) -> Answer:
                request = pb.EmbedRequest(images=[pb.Image(data=photo)])
                answer = stub.Embed(request, timeout=60.0, metadata=self._headers)
                found = np.frombuffer(answer.results[0].embeddings[0].data, "<f4").astype(np.float64)
                return Answer(answer.model.version, answer.model.fingerprint, found)

            self._send(way, ask)

    def _send(self, way: str, ask: Callable[[bytes], Answer]) -> None:
        turn = 0
        while not self._over.is_set():
            name = NAMES[turn % len(NAMES)]
            # Known ones cost the model servers nothing, unless the query bypasses the cache.
            known = turn % self._unseen_of[1] < self._unseen_of[1] - self._unseen_of[0]
            turn += 1
            begin = time.monotonic()
            try:
                answer = ask(example(name) if known else unseen(example(name)))
            except (AssertionError, httpx.HTTPError, grpc.RpcError) as error:
                with self._lock:
                    self.sent[way] += 1
                    self.failed.append(f"{way}: {error!r}"[:400])
                continue
            with self._lock:
                self.sent[way] += 1
                self.seconds.append(time.monotonic() - begin)
                self.versions[answer.version, answer.fingerprint] += 1
                off = relative_error(answer.vector, self._reference(name, answer))
                if off > self._tolerance:
                    self.wrong.append(f"{way}: {name} of version {answer.version}: relative error {off}")

    def _as_before(self, name: str, answer: Answer) -> Vector:
        return self._first.setdefault((answer.fingerprint, name), answer.vector)
