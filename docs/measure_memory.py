"""Measure what sets of outputs and versions cost the model server, and write docs/memory.md from what was found.

python docs/measure_memory.py                  measures what memory.json lacks, one after the other
python docs/measure_memory.py --again NAME …   measures these again
python docs/measure_memory.py --page           only writes the page

Each backbone is exported with three outputs and random weights. A model server and a gateway without a cache are
started; one caller asks for each of the seven sets of outputs, then eight callers for the top alone, then eight for all
sets in turn; then a second version is published; then the server's port is asked for the sets that no gateway asks for.
tests/unit/test_memory_page.py checks the page against the data, and the rule against both.
"""

import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import numpy as np
from measuring import Json, Page, microtome, parser, table

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "deploy" / "gpu")]

from calls import Caller  # noqa: E402

from bench.load.calling import calling  # noqa: E402
from bench.processes.usage import resident_megabytes  # noqa: E402
from tests.e2e.processes import Gateway, ModelServer, eventually  # noqa: E402


class TensorFlowServer(ModelServer):
    """The embedded model server as it stands for TensorFlow Serving."""

    def words(self) -> list[str]:
        """As ever, computing with TensorFlow, batches of any allowed size as they are."""
        return [*super().words(), "--engine=tensorflow", "--enable_per_model_batching_parameters=true"]


LAYERS = {
    "EfficientNetLite0": ("block3b_add", "block5c_add", "top_activation"),
    "ResNet50": ("conv3_block4_out", "conv4_block6_out", "conv5_block3_out"),
}
MEASURED = ("EfficientNetLite0", "EfficientNetLite0 as beside a GPU", "ResNet50")
CALLERS, SECONDS = 8, 10.0
SERVER_BYTES, VERSION_BYTES = 1.2e9, 0.1e9
"""Of TensorFlow, its threads and buffers, and of a version's graphs, before any weights."""
HEAD = ("model", "weights", "loaded", "7 sets by a gateway", "two versions", "by the rule", "3 more at the port")
LOAD_HEAD = ("model", "the top alone: p50, p99", "all sets in turn: p50, p99", "memory meanwhile")
ABOUT = """# Memory of a model server

TensorFlow keeps a copy of the graph with its weights for each set of outputs that it has been asked for, and for
each loaded version. A gateway asks for one output alone or for all, so a model of n outputs has n + 1 sets (one,
if it has one output), all prepared by its warm-up. Callers of the port itself may ask for 2^n - 1; the network
keeps them out.

## The rule

- **host memory** = 1.2 GB + (weights x (sets + 1) + 100 MB) x versions; the second term for each model. One more
  copy is the graph as it was read. On a CPU with oneDNN weights count twice, since oneDNN keeps them in an order of
  its own, and the activations of the largest batch come on top.
- **device memory** = 1.5 GB + weights x sets x versions + the activations of the largest batch times
  `num_batch_threads`. Each set has its own copy of each constant there. Not measured.

*Weights* are those of the SavedModel (`saved_model.pb`), in the precision in which it stores them. Two versions
are loaded, and a third only once the oldest is gone. A Vision Transformer of 1.2 GB with four outputs and two
versions: 1.2 + (1.2 x 6 + 0.1) x 2 = 15.8 GB of host memory, 1.5 + 1.2 x 5 x 2 = 13.5 GB of device memory and
activations. With 2^4 - 1 sets it would be 40 and 38 GB. The limit of `components/gpu` is 16 GiB. Fewer outputs in
a recipe need less.

## Measured

Made by `python docs/measure_memory.py` from [memory.json](memory.json): resident memory (RSS) in MB of the
embedded model server with `--engine=tensorflow`, which runs the same TensorFlow with the same session options,
with three outputs, their four sets warmed up.

- *as beside a GPU*: without oneDNN's copies (`TF_ENABLE_ONEDNN_OPTS=0`). Activations, up to batches of 32 images,
  are in host memory here, and on the device there.
- In a bare session, ResNet50 without oneDNN takes 97 MB for each set of outputs, once its weights of 94 MB.
- *7 sets by a gateway*: growth while one caller asks for each of the seven sets of the three outputs, after the
  gateway's check and a first request, which take 34 MB with Lite0 and 198 MB with ResNet50 and oneDNN.
- *two versions*: once a second one is loaded, checked and in use.
- *3 more at the port*: growth while the three pairs are asked for at the model server's own port.

"""


def host_bytes(weights: float, outputs: int, versions: int, *, copies: int = 1) -> float:
    """Return the host memory that a model needs beside a GPU, by the rule; two copies of each on a CPU with oneDNN."""
    sets = outputs + 1 if outputs > 1 else 1
    return SERVER_BYTES + (weights * copies * (sets + 1) + VERSION_BYTES) * versions


def page(data: Json) -> str:
    """Lay out the page: a row for every measurement."""
    rows, loads = [], []
    for name, found in data.items():
        grown = found["gateway"][-1] - found["asked"], found["port"][-1] - found["port"][0]
        numbers = found["weights"], found["loaded"], found["versions"], expected(name, found)
        weights, loaded, versions, rule = (f"{number:.0f}" for number in numbers)
        rows.append((name, weights, loaded, f"{grown[0]:+.0f}", versions, rule, f"{grown[1]:+.0f}"))
        times = [f"{found[load]['p50']:.0f}, {found[load]['p99']:.0f} ms" for load in ("alone", "in_turn")]
        loads.append((name, *times, f"{found['in_turn']['grown']:+.0f} MB"))
    about = (
        f"{CALLERS} callers for {SECONDS:.0f} s each, of one image at a time, while others used the machine too: "
        "compare the two columns only. Sets of several outputs share batches."
    )
    return f"{ABOUT}{table(HEAD, rows)}\n{about}\n\n{table(LOAD_HEAD, loads)}"


def expected(name: str, found: Json) -> float:
    """Return what the rule says of a measurement with two versions, in 10^6 bytes."""
    return host_bytes(found["weights"] * 1e6, 3, 2, copies=1 if name.endswith("GPU") else 2) / 1e6


PAGE = Page("memory", page)
known = PAGE.known


def _measure(name: str) -> Json:
    """Measure one backbone; return megabytes and milliseconds."""
    backbone, _, beside = name.partition(" ")
    recipe = f"models:\n  - name: m\n    backbone: {backbone}\n    weights: random\n    outputs:\n" + "".join(
        f"      - {{name: o{number}, layer: {layer}, pooling: avg}}\n" for number, layer in enumerate(LAYERS[backbone])
    )
    with tempfile.TemporaryDirectory(prefix="mem") as folder:
        place = Path(folder)
        (place / "recipe.yaml").write_text(recipe, encoding="utf-8")
        ran = microtome(["export", str(place / "recipe.yaml"), "--out", str(place / "models")])
        if ran.failed is not None:
            return {"failed": ran.failed}
        with _variables({"TF_ENABLE_ONEDNN_OPTS": "0"} if beside else {}):
            return _served(place)


@contextmanager
def _variables(wanted: Mapping[str, str]) -> Iterator[None]:
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            del os.environ[name]


def _served(place: Path) -> Json:
    server = TensorFlowServer(place, place / "models")
    gateway = Gateway(place, server.address, "m", cache_bytes=0)
    version = place / "models" / "m" / "1"
    photo = (REPOSITORY / "examples" / "cat.jpg").read_bytes()
    found: Json = {"weights": round((version / "saved_model.pb").stat().st_size / 1e6, 1)}

    def rss() -> float:
        return round(resident_megabytes(server.pid), 1)

    try:
        server.launch()
        eventually(server.serving, "the model server serves", 900.0)
        found["loaded"] = rss()
        gateway.start()
        every = [some for count in (1, 2, 3) for some in itertools.combinations(("o0", "o1", "o2"), count)]
        with gateway.client() as http:
            # Buffers of the first request belong to no set.
            http.post("/embed", content=photo).raise_for_status()
            found["asked"] = rss()
            found["gateway"] = []
            for some in every:
                _ask(http, photo, some)
                found["gateway"].append(rss())
        found["alone"] = _under_load(gateway.url, photo, [("o2",)], rss)
        found["in_turn"] = _under_load(gateway.url, photo, every, rss)
        shutil.copytree(version, place / "2")
        (place / "2").rename(place / "models" / "m" / "2")
        with gateway.client() as http:
            eventually(lambda: http.get("/models/m").json()["version"] == 2, "version 2 is in use", 120.0)
            _ask(http, photo, ("o0",))
        found["versions"] = rss()
        found["port"] = [rss(), *_at_the_port(server.address, [some for some in every if len(some) == 2], rss)]
    finally:
        gateway.destroy()
        server.destroy()
    return found


def _ask(http: httpx.Client, photo: bytes, outputs: Sequence[str], number: int = 0) -> None:
    # Decoders ignore what comes after a JPEG's end; equal images in flight would be computed once.
    content = photo + number.to_bytes(8, "big")
    http.post("/embed", params=[("output", name) for name in outputs], content=content, timeout=60.0).raise_for_status()


def _under_load(url: str, photo: bytes, sets: Sequence[Sequence[str]], rss: Callable[[], float]) -> Json:
    before, numbers = rss(), itertools.count()
    clients = [httpx.Client(base_url=url, trust_env=False) for _ in range(CALLERS)]

    def call(client: httpx.Client) -> None:
        number = next(numbers)
        _ask(client, photo, sets[number % len(sets)], number)

    with calling([partial(call, client) for client in clients]) as done:
        time.sleep(SECONDS)
    for client in clients:
        client.close()
    times = sorted(seconds for _, seconds, _ in done)
    return {
        "p50": round(1e3 * times[len(times) // 2], 1),
        "p99": round(1e3 * times[int(len(times) * 0.99)], 1),
        "images": len(times),
        "grown": round(rss() - before, 1),
    }


def _at_the_port(address: str, sets: Sequence[Sequence[str]], rss: Callable[[], float]) -> list[float]:
    """Ask the model server itself for sets of outputs; return its memory after each."""
    found = []
    with Caller(address) as caller:
        card = caller.card("m")
        size = card.manifest.pixels
        for some in sets:
            caller.predict(card, np.zeros((1, size.height, size.width, 3), np.uint8), some)
            found.append(rss())
    return found


if __name__ == "__main__":
    sys.exit(PAGE.measure(MEASURED, _measure, parser(__doc__, MEASURED).parse_args()))
