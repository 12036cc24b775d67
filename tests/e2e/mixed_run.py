"""Every kind of request at once while Redis and the model server freeze, die and return: is each vector right?

Three models, two of them in two versions; every form of answer and every encoding; gateways with a cache and without.

`make test` sends 600; `python -m bench.mixed_run` sends 20,000 and tells how far it is.
"""

import itertools
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.mixture import VERSIONS, Mixture
from tests.e2e.photos import EXAMPLES
from tests.e2e.processes import Gateway, ModelServer, Process, Valkey
from tests.exported_models import export

CLIENTS = 4

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


@contextmanager
def running(directory: Path, lite0_models: Path) -> Iterator[Stack]:
    """Export the other two models twice, and run everything; `directory` needs a path short enough for sockets."""
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
        Gateway(directory, model_server.address, names, redis_url=valkey.url, cache_bytes=0),
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


def run(stack: Stack, requests: int, tell: Callable[[Mixture], None] = lambda _: None) -> Mixture:
    """Send so many, break something every now and then, and return what came; `tell` is called all the while."""
    mixture = Mixture(stack.gateways, requests)
    threads = [threading.Thread(target=mixture.send, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    step, broken = max(50, requests // 50), faults(stack)
    for due in range(step, requests - step, step):
        while mixture.sent() < due and any(thread.is_alive() for thread in threads):
            threads[0].join(0.02)
            tell(mixture)
        next(broken)()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.02)
            tell(mixture)
    return mixture
