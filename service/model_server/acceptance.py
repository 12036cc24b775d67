"""Whether a model server may serve a version, decided before the first request is routed there: by golden vectors.

Each server is asked once for each version and connection: another process may be at the other end of a new one. What
exceeds the manifest's tolerance is refused there, unless MICROTOME_ACCEPT_DEVIATION allows so much. Vectors of a model
with such a setting have a fingerprint of their own, and so their own keys in every cache.

A text tower needs its tokenizer too, which comes from the model server: a gateway needs no more than an address.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from math import isinf
from time import perf_counter
from weakref import WeakKeyDictionary, WeakValueDictionary

from microtome.errors import ModelServerFault
from microtome.golden import GoldenCheck
from microtome.manifest import ModelCard, TokenizerSpec, TokensSpec
from microtome.tokenization import MOST_BYTES, SIGNATURE, Tokenizer, unpacked
from service.model_server.client import Predict
from service.model_server.predict_encoding import inputs_of, query_tensor, read_bytes, vectors
from service.model_server.versions import IDENTIFY_SECONDS, VersionRefused, answers_an_image
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics

SETTING = "MICROTOME_ACCEPT_DEVIATION"
EVERY_MODEL = "*"

_MOST_PARTS = 1024
"""Of a tokenizer."""

_SLACK = 1 << 16
"""Bytes that gzip may add to what cannot be compressed."""


async def measure(check: GoldenCheck, rpc: Predict, card: ModelCard, *, timeout: float) -> dict[str, float]:  # noqa: ASYNC109
    """Send the golden inputs to a version on one replica and return the deviation of each output, relative L2.

    What cannot run a request by the manifest, or answers with no vector at all, deviates infinitely.

    Raises:
        ServiceError: the replica does not answer, see `client.py`.
    """
    outputs = list(card.outputs)
    answers = []
    # Making and comparing takes tens of milliseconds, for which requests would wait.
    for given in await asyncio.to_thread(lambda: check.requests):
        inputs = inputs_of(list(given))
        try:
            answer = await rpc.predict(card.name, card.version, "serving_default", inputs, outputs, timeout=timeout)
            answers.append(vectors(answer, card, outputs, rows=len(given)))
        except ModelServerFault:
            return dict.fromkeys(outputs, float("inf"))
    return await asyncio.to_thread(check.deviations, answers)


class Tokenizers:
    """The tokenizers of text towers, each as long as a version that uses it is known. Belongs to one event loop."""

    def __init__(self) -> None:
        self._kept: WeakValueDictionary[TokensSpec, Tokenizer] = WeakValueDictionary()
        self._loading = asyncio.Lock()

    async def of(self, card: ModelCard, spec: TokensSpec, client: Predict) -> Tokenizer:
        """Return the tokenizer of a version, fetched from its server unless an equal one is known.

        Raises:
            VersionRefused: it cannot be used, or is not the one that the manifest names.
            ServiceError: the server cannot be asked, or does not have it.
        """
        # One at a time: several servers have the same, and the largest takes seconds and 100 MB to build.
        async with self._loading:
            found = self._kept.get(spec)
            if found is None:
                try:
                    packed = await _packed(card, spec.tokenizer, client)
                    # In a thread, since reading tens of megabytes of JSON takes time.
                    found = await asyncio.to_thread(lambda: Tokenizer.load(unpacked(packed, spec.tokenizer), spec))
                except (ValueError, ImportError) as error:
                    told = f"Version {card.version} of model {card.name!r} is not served: its tokenizer cannot be used."
                    advice = " Install the package `tokenizers`." if isinstance(error, ImportError) else ""
                    raise VersionRefused(f"{told} {error}{advice}", lasting=True) from error
                self._kept[spec] = found
            return found


async def _packed(card: ModelCard, spec: TokenizerSpec, client: Predict) -> bytes:
    """Fetch the compressed file, a part at a time: each fits into a message of gRPC.

    Raises:
        ValueError: it would be larger than any tokenizer, or is larger than the manifest says.
    """
    if spec.size > MOST_BYTES or not 0 < spec.parts <= _MOST_PARTS:
        raise ValueError(f"Expected at most {MOST_BYTES} bytes. Received: {spec.size} in {spec.parts} parts.")
    packed = bytearray()
    for number in range(spec.parts):
        query = {"query": query_tensor(number)}
        answer = await client.predict(card.name, card.version, SIGNATURE, query, [SIGNATURE], timeout=IDENTIFY_SECONDS)
        packed += read_bytes(answer, SIGNATURE)
        if len(packed) > spec.size + _SLACK:
            raise ValueError(f"Expected at most {spec.size} bytes. Received: more, compressed.")
    return bytes(packed)


class Acceptance:
    """Decides by golden vectors. Belongs to one event loop; its `admit` is what `Replicas` asks for."""

    def __init__(self, accepted: Mapping[str, float], metrics: Metrics, log: Logger) -> None:
        """Know nothing yet.

        Args:
            accepted: largest deviation that is served although it exceeds the tolerance, by model or for `*`.
            metrics: show the largest deviation of the last check; `watcher.py` counts refusals.
            log: told of each verdict.
        """
        self._tokenizers = Tokenizers()
        self._accepted = accepted
        self._metrics = metrics
        self._log = log
        self._told: WeakKeyDictionary[Predict, dict[tuple[str, int], tuple[int, Mapping[str, float]]]] = (
            WeakKeyDictionary()
        )
        """The last deviation in the log, by client and version: a server that fails is asked again and again."""

    def card(self, card: ModelCard) -> ModelCard:
        """Return a version under the fingerprint that its vectors have here: another one where more is accepted."""
        allowed = self._allowed(card.name)
        tolerances = [output.tolerance for output in card.outputs.values() if output.tolerance is not None]
        if not tolerances or allowed <= min(tolerances):
            return card
        fingerprint = f"{card.manifest.fingerprint}~{allowed:g}"
        return replace(card, manifest=replace(card.manifest, fingerprint=fingerprint))

    async def admit(self, card: ModelCard, target: str, start: int, client: Predict) -> ModelCard:
        """Check a version on one server; see `versions.Admit`. Without golden vectors, one black image needs an answer.

        A text tower's tokenizer is fetched first, and comes with the card.

        Raises:
            VersionRefused: it deviates; says by how much, and which setting accepts it. Or its tokenizer is not the one
                that the manifest names.
            ServiceError: the server cannot be asked, or the manifest's golden vectors cannot be read.
        """
        if isinstance(card.manifest.input, TokensSpec):
            card = replace(card, tokenizer=(await self._tokenizers.of(card, card.manifest.input, client)).ids)
        try:
            check = GoldenCheck.of(card.manifest)
        except ValueError as error:
            raise ModelServerFault(f"Model {card.name!r} has a manifest that we cannot read: {error}.") from error
        if check is None:
            return await answers_an_image(card, target, start, client)
        began = perf_counter()
        deviations = await measure(check, client, card, timeout=IDENTIFY_SECONDS)
        beyond = check.beyond(deviations)
        passed = all(found <= self._allowed(card.name) for found in beyond.values())
        largest = max(deviations.values())
        self._metrics.golden_deviation.labels(card.name).set(largest)
        about = {"model": card.name, "version": card.version, "replica": target}
        told = self._told.setdefault(client, {})
        if not beyond:
            told.pop((card.name, card.version), None)
            seconds = round(perf_counter() - began, 3)
            self._log.info("model_version_proved", **about, deviation=largest, seconds=seconds)
        elif told.get((card.name, card.version)) != (start, beyond):
            told[card.name, card.version] = (start, beyond)
            said = {name: f"{found:.2g} of {check.tolerances[name]:g}" for name, found in beyond.items()}
            event = "model_deviation_accepted" if passed else "model_version_deviates"
            self._log.warning(event, **about, deviations=said)
        if not passed:
            # A server that could not run the model at all may recover.
            raise VersionRefused(_refusal(card, beyond), lasting=not any(map(isinf, beyond.values())))
        return self.card(card)

    def _allowed(self, model: str) -> float:
        return self._accepted.get(model, self._accepted.get(EVERY_MODEL, 0.0))


def _refusal(card: ModelCard, beyond: Mapping[str, float]) -> str:
    found, output = max((found, name) for name, found in beyond.items())
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
