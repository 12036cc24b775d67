"""Requests of every kind at random, each answer compared with what was answered before anything broke."""

import itertools
import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from tests.e2e.answer_forms import FORMS, Form
from tests.e2e.photos import NAMES, example, unseen
from tests.e2e.processes import Gateway

VERSIONS = {"lite0": (1,), "mobile": (1, 2), "small": (1, 2)}

PHOTOS = {name: example(name) for name in NAMES}


@dataclass(frozen=True)
class Reference:
    """What one output of one version says of a photo; `ranges` are those of int8, if it has any."""

    vector: NDArray[np.float64]
    ranges: tuple[NDArray[np.float64], NDArray[np.float64]] | None


@dataclass
class Mixture:
    """Asks at random for any photo, model, version, output, form and use of the cache, and compares what comes."""

    gateways: tuple[Gateway, Gateway]
    requests: int
    statuses: Counter[int] = field(default_factory=Counter)
    caches: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._references = dict(_references(self.gateways[1]))
        self._serial = itertools.count()

    def sent(self) -> int:
        """How many requests have ended."""
        return self.statuses.total() + len(self.failed)

    def __str__(self) -> str:
        """The line for the report."""
        return (
            f"{self.sent()} sent, {len(self.failed)} failed, {len(self.wrong)} wrong; {dict(self.caches)}, "
            f"{len(self.forms)} forms of answer"
        )

    def send(self, seed: int) -> None:
        """Send until all clients together have sent enough."""
        choices = random.Random(seed)
        with self.gateways[0].client() as cached, self.gateways[1].client() as plain:
            while next(self._serial) < self.requests:
                self._send_one(choices.choice([cached, cached, plain]), choices)

    def _send_one(self, client: httpx.Client, choices: random.Random) -> None:
        model, version, photo, output = choices.choice(list(self._references))
        ranges = self._references[model, version, photo, output].ranges
        form = choices.choice([form for form in FORMS if form.encoding != "int8" or ranges is not None])
        options = {
            "model": model,
            "output": output,
            "encoding": form.encoding,
            "cache": choices.choice(["use", "use", "use", "refresh", "bypass"]),
            # Without a number the newest answers.
            **({} if version == VERSIONS[model][-1] and choices.random() < 0.5 else {"version": str(version)}),
        }
        body = unseen(PHOTOS[photo]) if choices.random() < 0.2 else PHOTOS[photo]
        try:
            response = client.post("/embed", content=body, params=options, headers={"accept": form.accept})
        except httpx.HTTPError as error:
            with self._lock:
                self.failed.append(f"{options}: {error!r}")
            return
        fault = self._fault(response, (model, version, photo, output), form)
        with self._lock:
            self.statuses[response.status_code] += 1
            self.caches[response.headers.get("x-cache", "none")] += 1
            self.forms[f"{form.accept} {form.encoding}"] += 1
            self.wrong += [f"{photo} {options}: {fault}"] if fault else []

    def _fault(self, response: httpx.Response, asked: tuple[str, int, str, str], form: Form) -> str | None:
        if response.status_code != httpx.codes.OK:
            return f"{response.status_code} {response.text[:200]}"
        if (asked[0], str(asked[1])) != (response.headers["x-model"], response.headers["x-model-version"]):
            return f"version {response.headers['x-model-version']} of {response.headers['x-model']}"
        reference = self._references[asked]
        return form.fault(form.read(response), reference.vector, reference.ranges)


def _references(gateway: Gateway) -> Iterator[tuple[tuple[str, int, str, str], Reference]]:
    """Every photo's vectors by model, version, photo and output, computed before anything is broken."""
    with gateway.client() as client:
        for model, versions in VERSIONS.items():
            for version, photo in itertools.product(versions, PHOTOS):
                options = {"model": model, "version": str(version), "output": "all", "cache": "bypass"}
                answer = client.post("/embed", content=PHOTOS[photo], params=options).raise_for_status().json()
                ranges = _ranges(client, model) if version == versions[-1] else {}
                for found in answer["embeddings"]:
                    vector = np.asarray(found["vector"])
                    yield (model, version, photo, found["output"]), Reference(vector, ranges.get(found["output"]))


def _ranges(client: httpx.Client, model: str) -> dict[str, Any]:
    outputs = client.get(f"/models/{model}").json()["manifest"]["outputs"]
    spread = {o["name"]: o["quantization"] for o in outputs if o["quantization"]}
    return {name: (np.asarray(found["min"]), np.asarray(found["max"])) for name, found in spread.items()}
