"""`microtome embed --engine ray` on a cluster of two machines that are processes here."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import cluster_utils

import microtome
from tests.e2e.processes import Gateway, serving
from tests.pictures import png

COUNT = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster with two nodes of one core each."""
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory, lite0_models: Path) -> Iterator[Gateway]:
    """A gateway over the default model that wants no key, in the place of the session's."""
    with serving(tmp_path_factory.mktemp("g"), lite0_models) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small pictures, one of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        (folder / f"{number:03}.png").write_bytes(png(number, 16, 16))
    (folder / "broken.png").write_bytes(png(0)[:60])
    return folder


def embed(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "microtome", "embed", "--engine", "ray", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def expected(keyless: Gateway, photos: Path) -> Any:
    """The vectors that the client has for the sound pictures."""
    with microtome.Client(keyless.url) as client:
        return client.embed(sorted(photos.glob("0*.png")))


def test_a_cluster_makes_the_same_file_as_one_machine(
    cluster: str, keyless: Gateway, photos: Path, tmp_path: Path, tried: Callable[[str], None]
) -> None:
    """The same vectors, in the same order, and the same side file."""
    tried("ray")
    out = tmp_path / "vectors.npy"
    done = embed(photos, "--out", out, "--url", keyless.url, "--ray-address", cluster, "--concurrency", "2")
    assert 3 == done.returncode, done.stderr
    np.testing.assert_array_equal(np.load(out), expected(keyless, photos))
    keys = [json.loads(line) for line in (tmp_path / "vectors.npy.keys.jsonl").read_text().splitlines()]
    assert [str(path) for path in sorted(photos.glob("0*.png"))] == keys
    (fault,) = (tmp_path / "vectors.npy.errors.jsonl").read_text().splitlines()
    assert (str(photos / "broken.png"), "broken-image") == tuple(json.loads(fault)[n] for n in ("key", "type"))


def test_actors_that_hold_the_saved_model_need_no_gateway(
    cluster: str, keyless: Gateway, photos: Path, lite0_models: Path, tmp_path: Path
) -> None:
    """The vectors are the gateway's, as far as batches of another size allow."""
    out = tmp_path / "vectors.npy"
    model = lite0_models / "lite0" / "1"
    done = embed(photos, "--out", out, "--saved-model", model, "--ray-address", cluster, "--concurrency", "2")
    assert 3 == done.returncode, done.stderr
    vectors = expected(keyless, photos)
    np.testing.assert_allclose(np.load(out), vectors, rtol=1e-4, atol=1e-5 * float(np.abs(vectors).max()))
    assert "broken-image" in (tmp_path / "vectors.npy.errors.jsonl").read_text()


def test_what_is_wrong_with_every_image_ends_the_run(
    cluster: str, keyless: Gateway, photos: Path, tmp_path: Path
) -> None:
    """An unknown output is said once, and not sixty times."""
    words = ("--out", tmp_path / "a.npy", "--url", keyless.url, "--ray-address", cluster, "--output", "topp")
    done = embed(photos, *words)
    assert (2, True) == (done.returncode, "topp" in done.stderr), done.stderr
