"""Every kind of request at once while Redis and the model server freeze, die and return: each vector is right.

Three models, two of them in two versions; every form of answer and every encoding; gateways with a cache and without.
`MICROTOME_DRILL_REQUESTS=20000 make test ARGS=tests/e2e/test_mixed_drill.py` sends as many as that.
"""

import itertools
import os
import random
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.e2e.answer_forms import FORMS, Form
from tests.e2e.photos import EXAMPLES, NAMES, example, unseen
from tests.e2e.processes import Gateway, ModelServer, Process, Valkey
from tests.exported_models import export

REQUESTS = int(os.environ.get("MICROTOME_DRILL_REQUESTS", "600"))
CLIENTS = 4
PHOTOS = {name: example(name) for name in NAMES}

RECIPE = """
models:
  - name: mobile
    backbone: MobileNetV2
    weights: random
    calibration: {examples}
    input: {{size: [64, 64], {resize}}}
    outputs:
      - {{name: early, layer: block_3_project_BN, pooling: avg, quantization: int8}}
      - {{name: late, layer: block_6_project_BN, pooling: max}}
  - name: small
    backbone: MobileNetV3Small
    weights: random
    calibration: {examples}
    input: {{size: [48, 96], {resize}}}
    outputs:
      - {{name: only, layer: expanded_conv_5_add, pooling: avg, quantization: int8}}
"""
RESIZES = ("resize: shortest-side, crop: center", "resize: squash, crop: none")
VERSIONS = {"lite0": (1,), "mobile": (1, 2), "small": (1, 2)}


class AllVersions(ModelServer):
    """The model server with every version of every model."""

    def words(self) -> list[str]:
        """As usual, but by a configuration that says so."""
        configuration = self.models / "all.config"
        entries = (
            f'config {{ name: "{name}" base_path: "{self.models / name}" model_platform: "tensorflow" '
            "model_version_policy { all {} } }"
            for name in VERSIONS
        )
        configuration.write_text(f"model_config_list {{ {' '.join(entries)} }}")
        chosen = f"--model_config_file={configuration}"
        return [chosen if word.startswith("--models_dir=") else word for word in super().words()]


@dataclass(frozen=True)
class Stack:
    """All processes: the first gateway keeps vectors in Valkey, the second keeps none."""

    valkey: Valkey
    model_server: ModelServer
    gateways: tuple[Gateway, Gateway]

    def processes(self) -> list[Process]:
        """In the order in which they are started."""
        return [self.valkey, self.model_server, *self.gateways]


@pytest.fixture(scope="module")
def stack(directory: Path, lite0_models: Path) -> Iterator[Stack]:
    """Three models, two of them exported twice, and two gateways."""
    models = Path(shutil.copytree(lite0_models, directory / "models", copy_function=os.link))
    for resize in RESIZES:
        recipe = directory / "recipe.yaml"
        recipe.write_text(RECIPE.format(examples=EXAMPLES, resize=resize))
        exported = export(recipe, models, "--no-verify")
        assert exported.returncode == 0, exported.stderr
    valkey, model_server = Valkey(directory), AllVersions(directory, models)
    names = ",".join(VERSIONS)
    (elsewhere := directory / "without").mkdir()
    gateways = (
        Gateway(directory, model_server.address, names, redis_url=valkey.url, cache_bytes=0, cache_breaker_window=0.5),
        Gateway(elsewhere, model_server.address, names, cache_bytes=0),
    )
    stack = Stack(valkey, model_server, gateways)
    try:
        for process in stack.processes():
            process.start()
        yield stack
    finally:
        for process in reversed(stack.processes()):
            process.destroy()


@dataclass(frozen=True)
class Reference:
    """What one output of one version says of a photo; `ranges` are those of int8, if it has any."""

    vector: NDArray[np.float64]
    ranges: tuple[NDArray[np.float64], NDArray[np.float64]] | None


@dataclass
class Mixture:
    """Asks at random for any photo, model, version, output, form and use of the cache, and compares what comes."""

    gateways: tuple[Gateway, Gateway]
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

    def send(self, seed: int) -> None:
        """Send until all clients together have sent enough."""
        choices = random.Random(seed)
        with self.gateways[0].client() as cached, self.gateways[1].client() as plain:
            while next(self._serial) < REQUESTS:
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


def faults(stack: Stack) -> Iterator[Callable[[], None]]:
    """What is broken and mended, over and over: Valkey frozen and killed, the model server frozen for a moment."""

    def pause() -> None:
        stack.model_server.send(signal.SIGSTOP)
        threading.Event().wait(0.3)
        stack.model_server.send(signal.SIGCONT)

    return itertools.cycle(
        [
            lambda: stack.valkey.send(signal.SIGSTOP),
            lambda: stack.valkey.send(signal.SIGCONT),
            pause,
            stack.valkey.kill,
            stack.valkey.start,
        ]
    )


@pytest.mark.timeout(max(300, REQUESTS // 5))
def test_every_vector_of_a_mixed_run_equals_its_reference(
    stack: Stack, record_property: Callable[[str, object], None]
) -> None:
    """Whatever is asked for and whatever breaks meanwhile: no failure, no wrong vector, no wrong version."""
    mixture = Mixture(stack.gateways)
    threads = [threading.Thread(target=mixture.send, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    step, broken = max(50, REQUESTS // 50), faults(stack)
    for due in range(step, REQUESTS - step, step):
        while mixture.sent() < due and any(thread.is_alive() for thread in threads):
            threads[0].join(0.02)
        next(broken)()
    for thread in threads:
        thread.join()
    record_property(
        "drill",
        f"mixed run: {mixture.sent()} sent, {len(mixture.failed)} failed, {len(mixture.wrong)} wrong; "
        f"{dict(mixture.caches)}, {len(mixture.forms)} forms of answer {mixture.failed[:3]} {mixture.wrong[:3]}",
    )
    assert ([], []) == (mixture.failed, mixture.wrong)
    assert {httpx.codes.OK: REQUESTS} == mixture.statuses
    assert {"hit", "miss"} <= set(mixture.caches)
    assert {f"{form.accept} {form.encoding}" for form in FORMS} == set(mixture.forms)
