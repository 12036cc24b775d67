"""Every kind of request at once while Redis freezes, dies and returns: each vector equals its reference."""

import base64
import io
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import numpy as np
from numpy.typing import NDArray

from tests.e2e.answers import embed
from tests.e2e.conftest import Stack
from tests.e2e.photos import NAMES, example, unseen

CLIENTS, REQUESTS = 4, 120
PHOTOS = {name: example(name) for name in NAMES}


class Kind(NamedTuple):
    """One way to ask for vectors, how to read them, and the relative error that it may have."""

    accept: str
    encoding: str
    read: Callable[[httpx.Response], NDArray[Any]]
    error: float


def rows(dtype: str) -> Callable[[httpx.Response], NDArray[Any]]:
    """Read little-endian rows."""
    return lambda response: np.frombuffer(response.content, dtype)


def from_base64(response: httpx.Response) -> NDArray[Any]:
    """Read base64 within JSON."""
    return np.frombuffer(base64.b64decode(response.json()["embeddings"][0]["vector"]), "<f4")


KINDS = [
    Kind("application/json", "float", lambda r: np.asarray(r.json()["embeddings"][0]["vector"]), 1e-5),
    Kind("application/json", "base64", from_base64, 1e-5),
    Kind("application/octet-stream", "float32", rows("<f4"), 1e-5),
    Kind("application/octet-stream", "float16", rows("<f2"), 1e-3),
    Kind("application/x-npy", "float32", lambda r: np.load(io.BytesIO(r.content)).ravel(), 1e-5),
]


class Mixture:
    """Asks at random for any photo, output, encoding, use of the cache and version, and compares what comes."""

    def __init__(self, stack: Stack) -> None:
        self._gateway = stack.gateway
        with stack.gateway.client() as client:
            answers = {name: embed(client, photo, output="all", version="1") for name, photo in PHOTOS.items()}
        self._expected = {
            (name, e["output"]): np.asarray(e["vector"])
            for name, answer in answers.items()
            for e in answer["embeddings"]
        }
        self.statuses: Counter[int] = Counter()
        self.caches: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def send(self, seed: int) -> None:
        """Send as many requests as one client does."""
        choices = random.Random(seed)
        with self._gateway.client() as client:
            for _ in range(REQUESTS):
                self._send_one(client, choices)

    def _send_one(self, client: httpx.Client, choices: random.Random) -> None:
        (name, output), expected = choices.choice(list(self._expected.items()))
        kind = choices.choice(KINDS)
        options = {
            "output": output,
            "encoding": kind.encoding,
            "cache": choices.choice(["use", "use", "use", "refresh", "bypass"]),
            **choices.choice([{}, {"version": "1"}]),
        }
        photo = unseen(PHOTOS[name]) if choices.random() < 0.2 else PHOTOS[name]
        response = client.post("/embed", content=photo, params=options, headers={"accept": kind.accept})
        fault = None
        if response.status_code != httpx.codes.OK:
            fault = f"{options}: {response.status_code} {response.text[:200]}"
        else:
            error = np.abs(kind.read(response) - expected).max() / np.abs(expected).max()
            if not error <= kind.error:
                fault = f"{name} {options}: relative error {error}"
        with self._lock:
            self.statuses[response.status_code] += 1
            self.caches[response.headers.get("x-cache", "none")] += 1
            self.wrong += [fault] if fault else []


def test_every_vector_of_a_mixed_run_equals_its_reference(
    stack: Stack, record_property: Callable[[str, object], None]
) -> None:
    """Whatever is asked for and whatever Redis does meanwhile: no failure, no wrong vector."""
    mixture = Mixture(stack)
    threads = [threading.Thread(target=mixture.send, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()

    def more(answers: int) -> None:
        enough = min(mixture.statuses.total() + answers, CLIENTS * REQUESTS)
        while mixture.statuses.total() < enough and any(thread.is_alive() for thread in threads):
            threads[0].join(0.02)

    more(60)
    stack.valkey.send(signal.SIGSTOP)
    more(60)
    stack.valkey.send(signal.SIGCONT)
    more(60)
    stack.valkey.kill()
    more(60)
    stack.valkey.start()
    for thread in threads:
        thread.join()
    sent = mixture.statuses.total()
    record_property(
        "drill", f"mixed run: {sent} sent, {dict(mixture.caches)}, {len(mixture.wrong)} wrong: {mixture.wrong[:3]}"
    )
    assert [] == mixture.wrong
    assert {httpx.codes.OK: CLIENTS * REQUESTS} == mixture.statuses
    assert {"hit", "miss"} <= set(mixture.caches)
