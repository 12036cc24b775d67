"""P5: images a second compared with other servers, cold, on the same SavedModel, images and cores.

One peer at a time runs in turn with our own stack; the one that is not measured is paused. Ours runs with
either engine: TensorFlow, the default, which the peers run too, and OpenVINO. The target is judged on both.
The limit is decoding and inference alone, which no server on TensorFlow can pass.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray

from bench.load.corpus import OUT
from bench.peers.programs import PEERS, Peer
from bench.processes.pausing import alone
from bench.processes.stack import CONNECTIONS, Program, Stack, running
from bench.ratios.measured import Effort, Measured, versus
from bench.ratios.throughput import ideal_workers
from bench.reporting.comparison import Comparison, interleaved
from tests.e2e.processes import eventually, free_port

MODEL = "mobilenet_v2"
TARGET = 1.5
PEER, OURS = "peer", ""
OPENVINO, LIMIT = " OpenVINO", " limit"
"""Suffixes of a peer's name in the keys of comparisons other than ours with the default engine."""
WHAT = {
    OURS: "images/s of {model}, cold ÷ {peer}, same SavedModel",
    OPENVINO: "the same with our OpenVINO engine ÷ {peer}",
    LIMIT: "ideal (decode + inference in a loop per core) ÷ {peer}",
}
_START_SECONDS = 120.0
_WARM_SECONDS = 3.0
_COSINE = 0.9999
_REASON_LETTERS = 400

Contestants = dict[str, Callable[[], Measured]]


class Unfair(Exception):
    """A peer's vector differs from ours, so that a comparison would mean nothing."""


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare with each peer; the smallest ratio, to the best peer, has the target."""
    compared: list[Comparison] = []
    with _ours(stack, effort) as (ours, polling):
        for warm in ours.values():
            warm()
        for peer in PEERS:
            print(f"    {peer.name} …", flush=True)
            try:
                peer.install()
                compared += _compared(stack, effort, peer, ours, polling)
            except Exception as error:  # noqa: BLE001, a peer that does not run here is named, the others are measured
                reason = " ".join(f"{type(error).__name__}: {error} {_last_words()}".split())[:_REASON_LETTERS]
                print(f"    {peer.name} could not be measured: {reason}", flush=True)
                compared.append(Comparison(*_named(peer, OURS), None, at_least=True, rounds=[], reason=reason))
    return [*against_the_best(compared), *compared]


@contextmanager
def _ours(stack: Stack, effort: Effort) -> Iterator[tuple[Contestants, list[int]]]:
    """Yield our own contestants (OpenVINO only where it runs), the ideal, and the processes to pause for others."""
    polling = stack.polling
    ours: Contestants = {OURS: lambda: stack.cold(effort.seconds, MODEL)}
    with ExitStack() as ends:
        try:
            served = ends.enter_context(stack.serving(MODEL, "--engine=openvino"))
            polling += [served.gateway.pid, served.model_server.pid]
            ours[OPENVINO] = lambda: stack.cold(effort.seconds, MODEL, served)
        except AssertionError as error:
            print(f"    the OpenVINO engine does not run here: {error}", flush=True)
        ideal = ends.enter_context(ideal_workers(stack, MODEL))
        yield {**ours, LIMIT: alone(lambda: ideal(effort.seconds / 2), polling)}, polling


def _compared(stack: Stack, effort: Effort, peer: Peer, ours: Contestants, polling: list[int]) -> list[Comparison]:
    port = free_port()
    program = Program(peer.command(port), port, peer.environment(stack.saved_model(MODEL).resolve(), port))
    with running(program):
        _check(stack, program)

        def put(seconds: float) -> Measured:
            load = {"port": port, "draw": "cold", "connections": CONNECTIONS}
            return stack.watched({PEER: program.pid}, seconds, **load)

        put(_WARM_SECONDS)
        contestants = {side: alone(run, [program.pid]) for side, run in ours.items()}
        contestants[PEER] = alone(lambda: put(effort.seconds), polling)
        rounds = interleaved(contestants, effort.rounds)
    return [versus(*_named(peer, side), None, rounds, (side, PEER)) for side in ours]


def _named(peer: Peer, side: str) -> tuple[str, str]:
    """Return the key and the words of a comparison."""
    return f"P5 {peer.name}{side}", WHAT[side].format(model=MODEL, peer=peer.name)


def against_the_best(compared: list[Comparison]) -> list[Comparison]:
    """Repeat the comparisons with the best peer under names of their own; the ratio of either engine is judged."""
    ours = [each for each in compared if each.rounds and not each.key.endswith((OPENVINO, LIMIT))]
    if not ours:
        return []
    best = min(ours, key=lambda each: each.median or 0.0).key
    found = []
    for side, target in ((OURS, TARGET), (OPENVINO, TARGET), (LIMIT, None)):
        for each in compared:
            if each.key == best + side:
                what = each.what.replace("÷ ", "÷ the best peer, ")
                one = Comparison(f"P5{side}", what, target, at_least=True, rounds=each.rounds, by_cpu=each.by_cpu)
                found.append(one)
    return found


def _check(stack: Stack, peer: Program) -> None:
    """Wait until the peer embeds, and compare its vector with ours.

    Raises:
        Unfair: It answers another vector.
        AssertionError: It does not embed in time.
    """
    image = Path(stack.corpus.photos[0]).read_bytes()

    def post(url: str) -> httpx.Response:
        return httpx.post(url, content=image, timeout=30, trust_env=False)

    found: list[NDArray[np.float64]] = []

    def embedded() -> bool:
        with suppress(httpx.HTTPError):
            answer = post(f"http://127.0.0.1:{peer.port}/embed")
            if answer.status_code == httpx.codes.OK:
                found.append(np.array(answer.json()["vector"]))
        return bool(found)

    eventually(embedded, "the peer embeds", _START_SECONDS)
    ours = np.array(post(f"{stack.near.gateway.url}/embed?model={MODEL}").json()["embeddings"][0]["vector"])
    cosine = float(found[0] @ ours / np.linalg.norm(found[0]) / np.linalg.norm(ours))
    if cosine < _COSINE:
        raise Unfair(f"Expected the vector that we answer. Received one at a cosine of {cosine:.4f} to it.")


def _last_words() -> str:
    """Return the end of the peer's output."""
    log = OUT / "contestant.log"
    return "Its last words: " + log.read_text(errors="replace")[-200:] if log.exists() else ""
