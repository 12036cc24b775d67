"""P5: images a second compared with other servers, cold, on the same SavedModel, images and cores.

One peer at a time runs in turn with our own stack; the one that is not measured is paused. Ours runs with
either engine: TensorFlow, the default, which the peers run too, and OpenVINO. The target is judged on both.
The limit is decoding and inference alone, which no server on TensorFlow can pass.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np

from bench.load.corpus import OUT
from bench.load.plan import Outcome
from bench.peers.programs import PEERS, Peer
from bench.processes.pausing import alone
from bench.processes.served import serving
from bench.processes.stack import Measured, Stack, listening, watched
from bench.ratios.effort import Effort
from bench.ratios.throughput import ideal_workers, work
from bench.reporting.comparison import Comparison, interleaved
from tests.e2e.processes import free_port

CONNECTIONS = 32
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
Rounds = list[dict[str, Measured]]


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
                compared.append(_comparison(peer, OURS, [], reason))
    return [*against_the_best(compared), *compared]


@contextmanager
def _ours(stack: Stack, effort: Effort) -> Iterator[tuple[Contestants, list[int]]]:
    """Yield our own contestants (OpenVINO only where it runs), the ideal, and the processes to pause for others."""
    polling = stack.polling
    load = stack.load(effort.seconds, path=f"/embed?model={MODEL}", draw="cold", connections=CONNECTIONS)
    ours: Contestants = {OURS: lambda: stack.put(load)}
    with ExitStack() as ends:
        try:
            served = ends.enter_context(serving(stack, MODEL, "--engine=openvino"))
            polling += [served.gateway.pid, served.model_server.pid]
            ours[OPENVINO] = lambda: served.put(served.cold(effort.seconds, CONNECTIONS))
        except AssertionError as error:
            print(f"    the OpenVINO engine does not run here: {error}", flush=True)
        workers = ends.enter_context(ideal_workers(stack, MODEL))

        def ideal() -> Measured:
            seconds = effort.seconds / 2
            done = work(workers, seconds)
            images = round(done["rate"] * seconds)
            cpu = {"ideal": images * (done["decode"] + done["infer"])}
            return Measured(Outcome({}, seconds, {}, images, 0, 0.0), cpu, 0.0)

        yield {**ours, LIMIT: alone(ideal, polling)}, polling


def _compared(stack: Stack, effort: Effort, peer: Peer, ours: Contestants, polling: list[int]) -> list[Comparison]:
    port = free_port()
    with listening(peer.command(port), port, peer.environment(stack.saved_model(MODEL).resolve(), port)) as pid:
        _check(stack, port)

        def put(seconds: float) -> Measured:
            load = stack.load(seconds, port=port, path="/embed", draw="cold", connections=CONNECTIONS)
            return watched(stack.generator, load, {PEER: pid})

        put(_WARM_SECONDS)
        contestants = {side: alone(run, [pid]) for side, run in ours.items()}
        contestants[PEER] = alone(lambda: put(effort.seconds), polling)
        rounds = interleaved(contestants, effort.rounds)
    return [_comparison(peer, side, rounds) for side in ours]


def _comparison(peer: Peer, side: str, rounds: Rounds, reason: str = "") -> Comparison:
    pairs = [(row[side], row[PEER]) for row in rounds]
    return Comparison(
        f"P5 {peer.name}{side}",
        WHAT[side].format(model=MODEL, peer=peer.name),
        None,
        at_least=True,
        rounds=[ours.outcome.rate / theirs.outcome.rate for ours, theirs in pairs],
        by_cpu=[theirs.cpu_per_image / ours.cpu_per_image for ours, theirs in pairs],
        facts=_facts(pairs) if rounds and side != LIMIT else {},
        reason=reason,
    )


def _facts(pairs: list[tuple[Measured, Measured]]) -> dict[str, list[float]]:
    return {
        "images/s": [ours.outcome.rate for ours, _ in pairs],
        "images/s, peer": [theirs.outcome.rate for _, theirs in pairs],
        "CPU ms": [1e3 * ours.cpu_per_image for ours, _ in pairs],
        "CPU ms, peer": [1e3 * theirs.cpu_per_image for _, theirs in pairs],
        "p99 ms": [1e3 * ours.outcome.latency["p99"] for ours, _ in pairs],
        "p99 ms, peer": [1e3 * theirs.outcome.latency["p99"] for _, theirs in pairs],
        "peer's answers that are no 200": [
            float(sum(theirs.outcome.statuses.values()) - theirs.outcome.answered) for _, theirs in pairs
        ],
        "foreign": [ours.foreign for ours, _ in pairs],
    }


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


def _check(stack: Stack, port: int) -> None:
    """Wait until the peer embeds, and compare its vector with ours.

    Raises:
        TimeoutError: It does not.
        Unfair: It answers another vector.
    """
    image = Path(stack.corpus.photos[0]).read_bytes()
    ours = httpx.post(f"{stack.gateway.url}/embed?model={MODEL}", content=image, timeout=30, trust_env=False).json()
    expected = np.array(ours["embeddings"][0]["vector"])
    vector = np.array(_first_answer(f"http://127.0.0.1:{port}/embed", image)["vector"])
    cosine = float(vector @ expected / np.linalg.norm(vector) / np.linalg.norm(expected))
    if cosine < _COSINE:
        raise Unfair(f"Expected the vector that we answer. Received one at a cosine of {cosine:.4f} to it.")


def _first_answer(url: str, image: bytes) -> dict[str, list[float]]:
    deadline, last = time.monotonic() + _START_SECONDS, "nothing"
    while time.monotonic() < deadline:
        try:
            answer = httpx.post(url, content=image, timeout=30, trust_env=False)
            if answer.status_code == httpx.codes.OK:
                found: dict[str, list[float]] = answer.json()
                return found
            last = f"{answer.status_code} {answer.text[:200]}"
        except httpx.HTTPError as error:
            last = repr(error)
        time.sleep(0.2)
    raise TimeoutError(f"Expected a vector within {_START_SECONDS:.0f} s. Received last: {last}")


def _last_words() -> str:
    """Return the end of the peer's output."""
    log = OUT / "contestant.log"
    return "Its last words: " + log.read_text(errors="replace")[-200:] if log.exists() else ""
