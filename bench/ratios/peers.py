"""P5: images a second beside those of other servers, cold, on the same SavedModel, images and cores.

One peer at a time beside our own stack, in turn with it, so that no idle peer costs another anything.
"""

import time
import traceback
from pathlib import Path

import httpx
import numpy as np

from bench.comparison import Comparison, interleaved
from bench.peer_programs import PEERS, Peer
from bench.ratios.effort import Effort
from bench.stack import Measured, Stack, free_port, listening, watched

CONNECTIONS = 32
MODELS = ("mobilenet_v2",)
_START_SECONDS = 180.0
_COSINE = 0.9999


class Unfair(Exception):
    """A peer answers something else than we do; comparing would mean nothing."""


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare with each peer; the smallest ratio, that to the best of them, is the one that has the target."""
    compared = []
    for model in MODELS:
        for peer in PEERS:
            try:
                peer.install()
                compared.append(_compared(stack, effort, peer, model))
            except Exception:  # noqa: BLE001, a peer that does not run here is named, the others are measured
                traceback.print_exc()
                print(f"{peer.name} could not be measured on {model}")
    return sorted(compared, key=lambda each: each.median)


def _compared(stack: Stack, effort: Effort, peer: Peer, model: str) -> Comparison:
    port = free_port()
    saved_model = stack.saved_model(model).resolve()
    cold = {"draw": "cold", "connections": CONNECTIONS}
    load = stack.load(effort.seconds * 1.5, path=f"/embed?model={model}", **cold)
    theirs = stack.load(effort.seconds * 1.5, port=port, path="/embed", **cold)
    with listening(peer.command(port), port, peer.environment(saved_model, port)) as pid:
        _check(stack, port, model)
        watched(stack.generator, theirs, {"peer": pid})  # warm
        stack.put(load)
        rounds = interleaved(
            {"ours": lambda: stack.put(load), "peer": lambda: watched(stack.generator, theirs, {"peer": pid})},
            effort.rounds,
        )
    return _comparison(peer, model, [(row["ours"], row["peer"]) for row in rounds])


def _comparison(peer: Peer, model: str, rounds: list[tuple[Measured, Measured]]) -> Comparison:
    return Comparison(
        f"P5 {peer.name}",
        f"images/s of {model}, cold ÷ {peer.name} on the same SavedModel",
        1.5,
        at_least=True,
        rounds=[ours.outcome.rate / theirs.outcome.rate for ours, theirs in rounds],
        by_cpu=[theirs.cpu_per_image / ours.cpu_per_image for ours, theirs in rounds],
        facts={
            "images/s": [ours.outcome.rate for ours, _ in rounds],
            "images/s, peer": [theirs.outcome.rate for _, theirs in rounds],
            "CPU ms": [1e3 * ours.cpu_per_image for ours, _ in rounds],
            "CPU ms, peer": [1e3 * theirs.cpu_per_image for _, theirs in rounds],
            "p99 ms": [1e3 * ours.outcome.latency["p99"] for ours, _ in rounds],
            "p99 ms, peer": [1e3 * theirs.outcome.latency["p99"] for _, theirs in rounds],
            "peer's answers that are no 200": [
                float(sum(theirs.outcome.statuses.values()) - theirs.outcome.answered) for _, theirs in rounds
            ],
            "foreign": [ours.foreign for ours, _ in rounds],
        },
    )


def _check(stack: Stack, port: int, model: str) -> None:
    """Wait until the peer embeds, and hold its vector to ours."""
    image = Path(stack.corpus.photos[0]).read_bytes()
    ours = httpx.post(f"{stack.gateway.url}/embed?model={model}", content=image, timeout=30, trust_env=False).json()
    expected = np.array(ours["embeddings"][0]["vector"])
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            answer = httpx.post(f"http://127.0.0.1:{port}/embed", content=image, timeout=30, trust_env=False)
            if answer.status_code == 200:
                break
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"Expected a vector within {_START_SECONDS:.0f} s.")
        time.sleep(0.2)
    vector = np.array(answer.json()["vector"])
    cosine = float(vector @ expected / np.linalg.norm(vector) / np.linalg.norm(expected))
    if cosine < _COSINE:
        raise Unfair(f"Expected the vector that we answer. Received one at a cosine of {cosine:.4f} to it.")
