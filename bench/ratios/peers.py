"""P5: images a second compared with other servers, cold, on the same images and cores, each as its user gets it.

Ours is what `make run` starts: `--engine auto`, which takes OpenVINO where it can. Each peer is what its documentation
says, on the same SavedModel in TensorFlow; one at a time runs in turn with our own stack, and the one that is not
measured is paused. The limit is decoding and inference alone, by the engine that ours takes, which no server with that
engine can pass. ResNet50 is exported in bfloat16 for ours, and runs beside the peer that was best with MobileNetV2:
as its documentation says, in float32; and, if that is faster, on the SavedModel in bfloat16 too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray

from bench.load.corpus import OUT
from bench.peers.programs import PEERS, Peer
from bench.processes.pausing import alone
from bench.processes.stack import CONNECTIONS, Program, Served, Stack, running
from bench.ratios.measured import Effort, Measured, versus
from bench.ratios.precision import FLAGS, able
from bench.ratios.throughput import ideal_workers
from bench.reporting.comparison import Comparison, interleaved
from tests.e2e.processes import eventually, free_port

LIGHT, HEAVY, HEAVY_BFLOAT16 = "mobilenet_v2", "resnet50", "resnet50_bfloat16"
TARGETS = {LIGHT: 1.4, HEAVY: 2.5}
PEER, OURS, LIMIT, BEST_PRECISION = "peer", "", " limit", " best precision"
"""A contestant, and suffixes of a peer's or model's name in the keys of comparisons."""
WHAT = {
    OURS: "images/s of {model}, cold, as it comes ÷ {peer}",
    LIMIT: "ideal (decode + inference in a loop per core, our engine) ÷ {peer}",
}
_START_SECONDS = 120.0
_WARM_SECONDS = 3.0
_COSINE = 0.9999
_REASON_LETTERS = 400

Contestants = dict[str, Callable[[], Measured]]


class Unfair(Exception):
    """A peer's vector differs from ours, so that a comparison would mean nothing."""


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare with each peer; the smallest ratio, to the best peer, has the target. Then ResNet50 with that peer."""
    compared: list[Comparison] = []
    with _ours(stack, effort, LIGHT, stack.near) as (ours, polling):
        for peer in PEERS:
            print(f"    {peer.name} …", flush=True)
            try:
                peer.install()
                program = _program(stack, peer, LIGHT)
                with running(program):
                    _check(stack, program, LIGHT, stack.near)
                    rounds = _rounds(stack, effort, program, ours, polling)
                compared += [versus(*_named(peer.name, LIGHT, side), None, rounds, (side, PEER)) for side in ours]
            except Exception as error:  # noqa: BLE001, a peer that does not run here is named, the others are measured
                key, what = _named(peer.name, LIGHT, OURS)
                compared.append(Comparison(key, what, None, at_least=True, rounds=[], reason=_reason(peer.name, error)))
    judged = against_the_best(compared)
    best = [peer for peer in PEERS if judged and judged[0].what.endswith(f", {peer.name}")]
    return [*judged, *compared, *(found for peer in best for found in _in_bfloat16(stack, effort, peer))]


@contextmanager
def _ours(stack: Stack, effort: Effort, model: str, served: Served) -> Iterator[tuple[Contestants, list[int]]]:
    """Yield our own contestants, service and ideal, and the processes to pause for others."""
    polling = [*stack.polling, served.gateway.pid, served.model_server.pid]
    polling = list(dict.fromkeys(polling))
    with ideal_workers(stack, model) as ideal:
        stack.cold(1.0, model, served)
        yield (
            {
                OURS: lambda: stack.cold(effort.seconds, model, served),
                LIMIT: alone(lambda: ideal(effort.seconds / 2), polling),
            },
            polling,
        )


def _in_bfloat16(stack: Stack, effort: Effort, peer: Peer) -> list[Comparison]:
    """Compare ResNet50 in bfloat16 with a peer in float32, and in bfloat16 if that is faster there.

    Where the processor has no bfloat16, say so.
    """
    reason = "" if able(Path("/proc/cpuinfo").read_text()) else f"/proc/cpuinfo shows neither {' nor '.join(FLAGS)}"
    key, compared = f"P5 {HEAVY}", []
    try:
        assert not reason, reason
        with (
            stack.serving(HEAVY_BFLOAT16) as served,
            _ours(stack, effort, HEAVY_BFLOAT16, served) as (ours, polling),
        ):
            rates = {}
            for model in (HEAVY, HEAVY_BFLOAT16):
                program = _program(stack, peer, model)
                with running(program):
                    _check(stack, program, HEAVY_BFLOAT16, served)
                    rates[model] = _put(stack, program, _WARM_SECONDS).outcome.rate
            for model in sorted({HEAVY, max(rates, key=rates.__getitem__)}):
                program = _program(stack, peer, model)
                with running(program):
                    _check(stack, program, HEAVY_BFLOAT16, served)
                    rounds = _rounds(stack, effort, program, ours, polling)
                against = f"the best peer, {peer.name} on {model}"
                sides = {OURS: BEST_PRECISION} if model != HEAVY else {OURS: OURS, LIMIT: LIMIT}
                compared += [
                    versus(
                        f"{key}{suffix}",
                        WHAT[side].format(model=HEAVY_BFLOAT16, peer=against),
                        None if suffix else TARGETS[HEAVY],
                        rounds,
                        (side, PEER),
                    )
                    for side, suffix in sides.items()
                ]
    except Exception as error:  # noqa: BLE001, as above
        why = reason or _reason(peer.name, error)
        what = _named(peer.name, HEAVY_BFLOAT16, OURS)[1]
        return [Comparison(key, what, TARGETS[HEAVY], at_least=True, rounds=[], reason=why)]
    return compared


def _program(stack: Stack, peer: Peer, model: str) -> Program:
    port = free_port()
    return Program(peer.command(port), port, peer.environment(stack.saved_model(model).resolve(), port))


def _put(stack: Stack, program: Program, seconds: float) -> Measured:
    load = {"port": program.port, "draw": "cold", "connections": CONNECTIONS}
    return stack.watched({PEER: program.pid}, seconds, **load)


def _rounds(
    stack: Stack, effort: Effort, program: Program, ours: Contestants, polling: list[int]
) -> list[dict[str, Measured]]:
    """Run ours and a peer in turn."""
    _put(stack, program, _WARM_SECONDS)
    contestants = {side: alone(run, [program.pid]) for side, run in ours.items()}
    contestants[PEER] = alone(lambda: _put(stack, program, effort.seconds), polling)
    return interleaved(contestants, effort.rounds)


def _named(peer: str, model: str, side: str) -> tuple[str, str]:
    """Return the key and the words of a comparison."""
    return f"P5 {peer}{side}", WHAT[side].format(model=model, peer=peer)


def _reason(peer: str, error: Exception) -> str:
    reason = " ".join(f"{type(error).__name__}: {error} {_last_words()}".split())[:_REASON_LETTERS]
    print(f"    {peer} could not be measured: {reason}", flush=True)
    return reason


def against_the_best(compared: list[Comparison]) -> list[Comparison]:
    """Repeat the comparisons with the best peer under names of their own; ours is judged."""
    ours = [each for each in compared if each.rounds and not each.key.endswith(LIMIT)]
    if not ours:
        return []
    best = min(ours, key=lambda each: each.median or 0.0).key
    return [
        Comparison(
            f"P5{side}",
            each.what.replace("÷ ", "÷ the best peer, "),
            target,
            at_least=True,
            rounds=each.rounds,
            by_cpu=each.by_cpu,
        )
        for side, target in ((OURS, TARGETS[LIGHT]), (LIMIT, None))
        for each in compared
        if each.key == best + side
    ]


def _check(stack: Stack, peer: Program, model: str, served: Served) -> None:
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
    ours = np.array(post(f"{served.gateway.url}/embed?model={model}").json()["embeddings"][0]["vector"])
    cosine = float(found[0] @ ours / np.linalg.norm(found[0]) / np.linalg.norm(ours))
    if cosine < _COSINE:
        raise Unfair(f"Expected the vector that we answer. Received one at a cosine of {cosine:.4f} to it.")


def _last_words() -> str:
    """Return the end of the peer's output."""
    log = OUT / "contestant.log"
    return "Its last words: " + log.read_text(errors="replace")[-200:] if log.exists() else ""
