"""A collection on a Ray cluster of two workers that are processes here, some of which are killed: what is left of it.

`make prove-ray` runs it for 40,000 images and prints rows a second beside one process, and the driver's memory; the
tests run the same for fewer.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from tests.exported_models import export_once

SIDE = 48
"""Pixels of the model's input."""

MODEL = """
import keras, sys
keras.utils.set_random_seed(1)
given = keras.Input(({side}, {side}, 3))
found = keras.layers.Rescaling(1 / 255)(given)
for width in (16, 32, 64):
    found = keras.layers.Conv2D(width, 3, strides=2, activation="relu", name=f"conv{{width}}")(found)
keras.Model(given, found).save(sys.argv[1])
"""

RECIPE = """
models:
  - name: tiny
    backbone: {path}
    weights: own
    input: {{size: {side}, resize: squash, crop: none, scaling: none}}
    outputs: [{{name: middle, layer: conv64, pooling: avg}}]
"""


def tiny_model(folder: Path) -> Path:
    """Export a model that computes an image in a tenth of a millisecond, and return its version's directory."""
    path = folder / "tiny.keras"
    if not path.exists():
        subprocess.run([sys.executable, "-c", MODEL.format(side=SIDE), path], check=True, capture_output=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(path=path, side=SIDE), encoding="utf-8")
    return export_once(recipe, folder / "models") / "tiny" / "1"


def pictures(folder: Path, count: int) -> Path:
    """Write small JPEGs, a thousand in a folder, and one that is broken."""
    if folder.exists():
        return folder
    numbers = np.random.default_rng(1)
    for number in range(count):
        place = folder / f"{number // 1000:03}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        pixels = numbers.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(place / f"{number:06}.jpg", quality=80)
    (folder / "000" / "broken.jpg").write_bytes((folder / "000" / "000000.jpg").read_bytes()[:200])
    return folder


@contextmanager
def cluster(workers: int = 2) -> Iterator[Any]:
    """A Ray cluster: a head that computes nothing, and workers with one core each."""
    from ray import cluster_utils  # noqa: PLC0415

    found = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(workers):
            found.add_node(num_cpus=1)
        yield found
    finally:
        found.shutdown()


def command(*words: object) -> list[str]:
    """The command line of a run."""
    return [sys.executable, "-m", "microtome", "embed", *map(str, words)]


@dataclass
class Watched:
    """A run, whose memory is looked at while it goes on."""

    words: Sequence[object]
    rss: list[tuple[float, int]] = field(default_factory=list)
    seconds: float = 0.0
    ended: float = 0.0
    code: int = 0
    said: str = ""

    def run(self, during: Any = None) -> "Watched":
        """Run it to its end; `during` is called with the process, five times a second, and may kill it."""
        began = time.monotonic()
        with (
            tempfile.TemporaryFile("w+") as said,
            subprocess.Popen(command(*self.words), stdout=said, stderr=subprocess.STDOUT, text=True) as process,
        ):
            while process.poll() is None:
                self.rss.append((time.monotonic() - began, resident(process.pid)))
                if during:
                    during(process)
                time.sleep(0.2)
            self.code, self.ended = process.returncode, time.monotonic()
            self.seconds = self.ended - began
            said.seek(0)
            self.said = said.read()
        return self


def resident(pid: int) -> int:
    """Bytes of memory of a process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)
    except OSError:
        return 0


def finished(out: Path) -> list[dict[str, Any]]:
    """The shards that a manifest names."""
    path = out / "_microtome" / "manifest.json"
    found: list[dict[str, Any]] = json.loads(path.read_bytes())["shards"] if path.exists() else []
    return found


def vectors(paths: Sequence[Path]) -> dict[str, Any]:
    """The vectors of Parquet files by key, none of which is there twice."""
    found: dict[str, Any] = {}
    for path in paths:
        table = pq.read_table(path)
        matrix = table["middle"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        keys = table["key"].to_pylist()
        assert not found.keys() & set(keys), "twice"
        assert len(keys) == len(set(keys)), "twice"
        found.update(zip(keys, matrix, strict=True))
    return found


def shards(out: Path) -> list[Path]:
    """The Parquet files of a folder, which are the ones that the manifest names."""
    found = sorted(out.glob("*.parquet"))
    assert {f"{shard['name']}.parquet" for shard in finished(out) if shard["rows"]} == {path.name for path in found}
    return found


def children(name: str) -> list[int]:
    """The processes on this machine of Ray's actors or tasks of a name, such as `MapWorker`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = path.read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::") and name.encode() in title:
            found.append(int(path.parent.name))
    return found


def kill_some(*names: str) -> Any:
    """Return a function that kills, once for each name, the first of Ray's processes of that name that it sees."""
    left, killed = list(names), list[int]()

    def during(_: Any) -> None:
        for name in tuple(left):
            if found := children(name):
                os.kill(found[0], signal.SIGKILL)
                killed.append(found[0])
                left.remove(name)

    during.killed = killed  # type: ignore[attr-defined]
    return during


def kill_driver(out: Path, after: int) -> Any:
    """Return a function that kills a run when so many shards are finished."""

    def during(process: Any) -> None:
        if len(finished(out)) >= after:
            process.kill()

    return during


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Prove it and print the numbers."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--folder", type=Path, help="where everything goes, and what is there is taken")
    options = parser.parse_args()
    if options.folder:
        prove(options.folder, options.images)
        return
    with tempfile.TemporaryDirectory(prefix="ray-collection-", ignore_cleanup_errors=True) as path:
        prove(Path(path), options.images)


def prove(folder: Path, count: int) -> None:
    """Run the collection by one process, on two workers, and on two workers of which some are killed."""
    model, photos = tiny_model(folder), pictures(folder / "photos", count)
    began = Begun(lambda: size(folder / "one.parquet.journal") // 400)
    one = Watched([photos, "--saved-model", model, "--out", folder / "one.parquet"]).run(began)
    assert 3 == one.code, one.said
    expected = vectors([folder / "one.parquet"])
    report("one process", count, one, began)
    with cluster() as ray:
        words = [photos, "--saved-model", model, "--engine", "ray", "--ray-address", ray.address]
        began = Begun(lambda: sum(shard["rows"] for shard in finished(folder / "two")))
        two = Watched([*words, "--out", folder / "two"]).run(began)
        assert 3 == two.code, two.said
        report("two workers", count, two, began)
        check(folder / "two", expected)
        words += ["--out", folder / "killed"]
        total = count // 2048
        first = Watched(words).run(kill_driver(folder / "killed", max(1, total // 4)))
        say(f"driver killed after {len(finished(folder / 'killed'))} of {total + 1} shards, exit {first.code}")
        during = kill_some("(decode)", "(Infer)")
        second = Watched(words).run(during)
        say(f"{len(during.killed)} workers killed in the second run, exit {second.code}")
        assert 3 == second.code, second.said
        check(folder / "killed", expected)


def check(out: Path, expected: dict[str, Any]) -> None:
    """Compare a folder with what one process has made."""
    found = vectors(shards(out))
    assert found.keys() == expected.keys(), (len(found), len(expected))
    keys = sorted(found)
    one, other = (np.stack([side[key] for key in keys]) for side in (found, expected))
    off = float(np.abs(one - other).max() / np.abs(other).max())
    assert off <= 1e-5
    (failed,) = [line for path in (out / "_microtome" / "errors").iterdir() for line in path.read_text().splitlines()]
    assert "broken-image" in failed
    say(f"{out.name}: {len(found)} vectors, each once, none missing; largest difference {off:.1e}")


class Begun:
    """When a run has its first rows, and how many: what it needs to start is left out of its rate."""

    def __init__(self, rows: Callable[[], int]) -> None:
        self._rows = rows
        self.at, self.rows = 0.0, 0

    def __call__(self, _: Any) -> None:
        """Look."""
        if not self.rows and (found := self._rows()):
            self.at, self.rows = time.monotonic(), found

    def rate(self, count: int, run: Watched) -> float:
        """Rows a second from then to the run's end."""
        return (count - self.rows) / (run.ended - self.at)


def size(path: Path) -> int:
    """Bytes of a file, if there is one."""
    return path.stat().st_size if path.exists() else 0


def report(name: str, count: int, run: Watched, began: Begun) -> None:
    """Print rows a second and the process's memory over time."""
    rss = [bytes_ >> 20 for _, bytes_ in run.rss if bytes_]
    some = [*rss[:: max(1, len(rss) // 12)], rss[-1]]
    rate = f"{count} images in {run.seconds:.0f} s; {began.rate(count, run):.0f} a second from the first rows on"
    say(f"{name}: {rate}; memory of the process in MB over time {some}, at most {max(rss)}")


if __name__ == "__main__":
    main()
