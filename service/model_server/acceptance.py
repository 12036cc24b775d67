"""Golden vectors: whether a replica may serve a version, decided before the first request is routed there.

Each replica is asked once for each version and each start of its server. What exceeds the manifest's tolerance is
refused until the server starts again or the version is gone, unless MICROTOME_ACCEPT_DEVIATION allows so much. Vectors
of a model with such a setting have a fingerprint of their own, and so their own keys in every cache.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isinf
from time import perf_counter
from typing import NamedTuple, Protocol

from microtome.errors import ModelNotReady, ModelServerFault, ServiceError
from microtome.golden import GoldenCheck
from microtome.manifest import ModelCard
from microtome.tfserving.v1.predict_pb2 import PredictResponse
from service.model_server.predict_encoding import IMAGES, WireTensor, pixels_tensor, vectors
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics

SETTING = "MICROTOME_ACCEPT_DEVIATION"
EVERY_MODEL = "*"


class Replica(NamedTuple):
    """One start of one model server, as far as its channel can tell."""

    address: str
    start: int


class Predict(Protocol):
    """The calls of one replica."""

    async def predict(  # noqa: PLR0913, the parts of one request
        self,
        model: str,
        version: int,
        signature: str,
        inputs: Mapping[str, WireTensor],
        outputs: Sequence[str],
        *,
        timeout: float,  # noqa: ASYNC109, gRPC's own deadline
    ) -> PredictResponse:
        """Run a signature of exactly this version; see `ModelServerClient`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one check.

    Attributes:
        deviations: relative L2 by output; empty for a manifest without golden vectors.
        beyond: those that exceed their tolerance.
        passed: whether the version may be served.
    """

    deviations: Mapping[str, float]
    beyond: Mapping[str, float]
    passed: bool


class _Case(NamedTuple):
    replica: Replica
    model: str
    version: int
    fingerprint: str


async def measure(check: GoldenCheck, rpc: Predict, card: ModelCard, *, timeout: float) -> dict[str, float]:  # noqa: ASYNC109
    """Send the golden inputs to a version on one replica and return the deviation of each output, relative L2.

    What cannot run a request by the manifest, or answers with no vector at all, deviates infinitely.

    Raises:
        ServiceError: the replica does not answer, see `client.py`.
    """
    outputs = list(card.outputs)
    answers = []
    # Making and comparing takes tens of milliseconds, for which requests would wait.
    for images in await asyncio.to_thread(lambda: check.requests):
        inputs = {IMAGES: pixels_tensor(list(images))}
        try:
            answer = await rpc.predict(card.name, card.version, "serving_default", inputs, outputs, timeout=timeout)
            answers.append(vectors(answer, card, outputs, rows=len(images)))
        except ModelServerFault:
            return dict.fromkeys(outputs, float("inf"))
    return await asyncio.to_thread(check.deviations, answers)


class Acceptance:
    """The verdicts on every replica and version. Belongs to one event loop."""

    def __init__(self, accepted: Mapping[str, float], metrics: Metrics, log: Logger) -> None:
        """Know nothing yet.

        Args:
            accepted: largest deviation that is served although it exceeds the tolerance, by model or for `*`.
            metrics: show deviations and refusals.
            log: told of each verdict.
        """
        self._accepted = accepted
        self._metrics = metrics
        self._log = log
        self._verdicts: dict[_Case, Verdict] = {}
        self._under_way: dict[_Case, asyncio.Task[Verdict]] = {}

    def card(self, card: ModelCard) -> ModelCard:
        """Return a version under the fingerprint that its vectors have here: another one where more is accepted."""
        allowed = self._allowed(card.name)
        tolerances = [output.tolerance for output in card.outputs.values() if output.tolerance is not None]
        if not tolerances or allowed <= min(tolerances):
            return card
        fingerprint = f"{card.manifest.fingerprint}~{allowed:g}"
        return ModelCard(card.name, card.version, replace(card.manifest, fingerprint=fingerprint))

    def passed(self, replica: Replica, model: str, version: int, fingerprint: str) -> bool:
        """Whether requests for a version may go to a replica."""
        verdict = self._verdicts.get(_Case(replica, model, version, fingerprint))
        return verdict is not None and verdict.passed

    async def prove(self, card: ModelCard, replicas: Mapping[Replica, Predict], *, timeout: float) -> None:  # noqa: ASYNC109
        """Return once one of the replicas has passed; the others are examined meanwhile and afterwards.

        Raises:
            ModelNotReady: the version deviates on each of them; says by how much, and which setting accepts it.
            ServiceError: none of them could be asked.
        """
        cases = {_case(replica, card): rpc for replica, rpc in replicas.items()}
        tasks = [self._examine(case, card, rpc, timeout) for case, rpc in cases.items() if self._open(case)]
        while tasks and not any(self._passes(case) for case in cases):
            _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not pending:
                break
            tasks = list(pending)
        if any(self._passes(case) for case in cases):
            return
        refused = [self._verdicts[case] for case in cases if case in self._verdicts]
        if refused:
            raise ModelNotReady(self._refusal(card, refused), retry_after=5)
        for task in tasks:
            await task  # raises what it met
        raise ModelNotReady(f"No model server that has version {card.version} of {card.name!r} is up.", retry_after=2)

    def retain(self, model: str, versions: Collection[int], replicas: Iterable[Replica]) -> None:
        """Forget verdicts on versions and starts of servers that are gone, and update the metric of refusals."""
        known = set(replicas)
        self._verdicts = {
            case: verdict
            for case, verdict in self._verdicts.items()
            if case.replica in known and (case.model != model or case.version in versions)
        }
        self._tell(model)

    def close(self) -> None:
        """Stop examining."""
        for task in self._under_way.values():
            task.cancel()

    def _open(self, case: _Case) -> bool:
        """Whether a case is to be examined: a server that could not run the model at all may have recovered."""
        return case not in self._verdicts or any(isinf(found) for found in self._verdicts[case].beyond.values())

    def _passes(self, case: _Case) -> bool:
        return case in self._verdicts and self._verdicts[case].passed

    def _allowed(self, model: str) -> float:
        return self._accepted.get(model, self._accepted.get(EVERY_MODEL, 0.0))

    def _examine(self, case: _Case, card: ModelCard, rpc: Predict, timeout: float) -> "asyncio.Task[Verdict]":
        """Return the examination of a case, begun unless it is under way."""
        if case not in self._under_way:
            task = asyncio.create_task(self._verdict(case, card, rpc, timeout))
            task.add_done_callback(lambda done: self._examined(case, done))
            self._under_way[case] = task
        return self._under_way[case]

    def _examined(self, case: _Case, task: "asyncio.Task[Verdict]") -> None:
        del self._under_way[case]
        if not task.cancelled():
            task.exception()  # marked as seen: others may have passed before

    async def _verdict(self, case: _Case, card: ModelCard, rpc: Predict, timeout: float) -> Verdict:  # noqa: ASYNC109
        try:
            check = GoldenCheck.of(card.manifest)
        except ValueError as error:
            raise ModelServerFault(f"Model {card.name!r} has a manifest that we cannot read: {error}.") from error
        if check is None:
            return self._keep(case, Verdict({}, {}, passed=True))
        began = perf_counter()
        try:
            deviations = await measure(check, rpc, card, timeout=timeout)
        except ServiceError:
            raise
        except Exception as error:
            # An unforeseen fault of one version must not stop the polling of the others.
            self._log.exception("golden_check_failed", model=card.name, version=card.version)
            raise ModelServerFault("The golden vectors could not be checked; the log has the traceback.") from error
        beyond = check.beyond(deviations)
        passed = all(found <= self._allowed(card.name) for found in beyond.values())
        self._metrics.golden_deviation.labels(card.name).set(max(deviations.values()))
        about = {"model": card.name, "version": card.version, "replica": case.replica.address}
        known = self._verdicts.get(case)
        if not beyond:
            seconds = round(perf_counter() - began, 3)
            self._log.info("model_version_proved", **about, deviation=max(deviations.values()), seconds=seconds)
        elif known is None or known.beyond != beyond:
            said = {name: f"{found:.2g} of {check.tolerances[name]:g}" for name, found in beyond.items()}
            event = "model_deviation_accepted" if passed else "model_version_deviates"
            self._log.warning(event, **about, deviations=said)
        return self._keep(case, Verdict(deviations, beyond, passed))

    def _keep(self, case: _Case, verdict: Verdict) -> Verdict:
        self._verdicts[case] = verdict
        self._tell(case.model)
        return verdict

    def _tell(self, model: str) -> None:
        refused = {
            case.replica for case, verdict in self._verdicts.items() if case.model == model and not verdict.passed
        }
        self._metrics.golden_refusals.labels(model).set(len(refused))

    @staticmethod
    def _refusal(card: ModelCard, refused: Iterable[Verdict]) -> str:
        found, output = max((found, name) for verdict in refused for name, found in verdict.beyond.items())
        tolerance = card.outputs[output].tolerance
        way = (
            f"{SETTING}={card.name}={float(f'{2 * found:.0e}'):g} serves it all the same"
            if found < 0.5
            else "Another version, or another model server, is needed"
        )
        return (
            f"Version {card.version} of model {card.name!r} is not served: its output {output!r} deviates from its "
            f"golden vectors by {found:.2g}, where {tolerance:g} is allowed. {way}."
        )


def _case(replica: Replica, card: ModelCard) -> _Case:
    return _Case(replica, card.name, card.version, card.manifest.fingerprint)
