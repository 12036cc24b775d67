"""`microtome embed --engine ray` on a cluster of two machines that are processes here, and with a store."""

import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

import microtome
from microtome.client.images import ImageLike
from tests.clients import ray_collection
from tests.clients.ray_collection import Watched, command, finished, kill_driver, kill_some, vectors
from tests.e2e.processes import Gateway, serving
from tests.pictures import png

COUNT = 3000


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """An S3 on this machine; where the workers find it is in the environment, as for users."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield "s3://collection"
    server.stop()


@pytest.fixture(scope="module")
def cluster(store: str) -> Iterator[str]:
    """The address of the cluster."""
    with ray_collection.cluster() as found:
        yield found.address


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the collection, its model and what becomes of it."""
    return tmp_path_factory.mktemp("collection")


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    """A small model's version."""
    return ray_collection.tiny_model(place)


@pytest.fixture(scope="module")
def photos(place: Path) -> Path:
    """Many small pictures, one of them broken."""
    return ray_collection.pictures(place / "photos", COUNT)


@pytest.fixture(scope="module")
def alone(place: Path, model: Path, photos: Path) -> dict[str, Any]:
    """The vectors of one process without Ray."""
    done = run(photos, "--saved-model", model, "--out", place / "one.parquet")
    assert 3 == done.returncode, done.stderr
    return vectors([place / "one.parquet"])


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=240, check=False)


def test_nothing_is_lost_and_nothing_comes_twice_whatever_is_killed(
    cluster: str, model: Path, photos: Path, alone: dict[str, Any], tried: Callable[[str], None]
) -> None:
    """The driver, then an actor: the vectors are those of one process, and the broken picture is told once."""
    tried("ray")
    out = model.parents[2] / "killed"
    words = [photos, "--engine", "ray", "--ray-address", cluster, "--saved-model", model]
    words += ["--out", out, "--shard-rows", 100]
    first = Watched(words).run(kill_driver(out, 3))
    assert first.code < 0, first.said
    before = len(finished(out))
    assert 3 <= before < COUNT // 100
    during = kill_some("(decode)", "(Infer)")
    second = Watched(words).run(during)
    assert 2 == len(during.killed)
    assert 3 == second.code, second.said
    assert "going on after" in second.said
    ray_collection.check(out, alone)
    third = run(*words)
    assert (2, True) == (third.returncode, "complete" in third.stderr), third.stderr


def test_another_run_with_the_same_folder_is_refused(cluster: str, place: Path, model: Path, photos: Path) -> None:
    """Another source or dtype is a sentence, before anything is started."""
    out = place / "refused"
    words = ["--engine", "ray", "--ray-address", cluster, "--saved-model", model, "--out", out]
    first = Watched([photos, *words, "--shard-rows", 50]).run(kill_driver(out, 1))
    assert first.code < 0, first.said
    for other, said in ((["--dtype", "float16"], "dtype was 'float32', is 'float16'"), (["--normalize"], "normalize")):
        done = run(photos, *words, *other)
        assert (2, True) == (done.returncode, said in done.stderr), done.stderr
    done = run(photos / "000", *words)
    assert (2, True) == (done.returncode, "sources was" in done.stderr), done.stderr


def test_a_store_is_read_and_written(cluster: str, store: str, place: Path, model: Path, photos: Path) -> None:
    """Objects, tars, Parquet columns and the model come from S3, the shards go there; a local run says the same."""
    system, root = fs.FileSystem.from_uri(f"{store}?allow_bucket_creation=true")
    system.create_dir(root)
    some = [*sorted((photos / "000").glob("*.jpg"))[:12], photos / "000" / "broken.jpg"]
    bodies = {path.name: path.read_bytes() for path in some}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, body in bodies.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    table = io.BytesIO()
    pq.write_table(pa.table({"image": list(bodies.values())}), table, row_group_size=5)
    objects = {f"photos/{name}": body for name, body in bodies.items()}
    objects |= {"wds/shard-1.tar": packed.getvalue(), "table.parquet": table.getvalue()}
    for name, body in objects.items():
        with system.open_output_stream(f"{root}/{name}") as file:
            file.write(body)
    fs.copy_files(str(model), f"{root}/models/tiny/1", destination_filesystem=system)
    sources = [f"{store}/photos", f"{store}/wds/*.tar", f"{store}/table.parquet::image"]
    words = ["--engine", "ray", "--ray-address", cluster, "--saved-model", f"{store}/models/tiny/1"]
    done = run(*sources, *words, "--out", f"{store}/vectors")
    assert 3 == done.returncode, done.stderr
    assert "36 vectors; 3 failed" in done.stderr
    fs.copy_files(f"{root}/vectors", str(place / "fetched"), source_filesystem=system)
    found = vectors(ray_collection.shards(place / "fetched"))
    local = run(*sources, "--saved-model", model, "--out", place / "stored.parquet")
    assert 3 == local.returncode, local.stderr
    expected = vectors([place / "stored.parquet"])
    assert expected.keys() == found.keys()
    for key, vector in expected.items():
        np.testing.assert_allclose(found[key], vector, rtol=1e-5, atol=1e-6)
    assert f"{store}/wds/shard-1.tar::{some[0].name}" in found
    told = errors(place / "fetched" / "_microtome" / "errors")
    beside = [json.loads(line) for line in (place / "stored.parquet.errors.jsonl").read_text().splitlines()]
    assert sorted(beside, key=str) == sorted(told, key=str)


def errors(folder: Path) -> list[Any]:
    """What is said of images that failed."""
    return [json.loads(line) for path in folder.iterdir() for line in path.read_text().splitlines()]


def test_actors_may_ask_a_gateway(cluster: str, keyless: Gateway, place: Path, tmp_path: Path) -> None:
    """The vectors are the client's, and what is wrong with every image is said once."""
    for number in range(60):
        (tmp_path / f"{number:03}.png").write_bytes(png(number, 16, 16))
    (tmp_path / "broken.png").write_bytes(png(0)[:60])
    words = [tmp_path, "--engine", "ray", "--ray-address", cluster, "--url", keyless.url]
    done = run(*words, "--out", place / "asked")
    assert 3 == done.returncode, done.stderr
    (path,) = ray_collection.shards(place / "asked")
    table = pq.read_table(path)
    with microtome.Client(keyless.url) as client:
        expected = client.embed([Path(key) for key in table["key"].to_pylist()])
    found = table.column(1).combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    np.testing.assert_array_equal(found, expected)
    (fault,) = errors(place / "asked" / "_microtome" / "errors")
    assert (str(tmp_path / "broken.png"), "broken-image") == (fault["key"], fault["type"])
    done = run(*words, "--out", place / "unknown", "--output", "topp")
    assert (2, True) == (done.returncode, "topp" in done.stderr), done.stderr


def test_words_go_where_images_go(cluster: str, tower_models: Path, place: Path, tmp_path: Path) -> None:
    """Lines, strings of a column and --text, in one shard with photos; without a gateway they are refused."""
    captions, table, photo = tmp_path / "captions.txt", tmp_path / "captions.parquet", tmp_path / "1.png"
    captions.write_bytes(b"a red car\n\na cat\n\xff\n")
    pq.write_table(pa.table({"caption": ["a cat", "a hat"]}), table)
    photo.write_bytes(png(1, 16, 16))
    words = [captions, f"{table}::caption", photo, "--text", "a red car", "--text", "a red car"]
    words += ["--engine", "ray", "--ray-address", cluster, "--out", place / "words", "--model", "siglip"]
    inputs: dict[str, ImageLike] = {str(photo): photo, "a red car": microtome.Text("a red car")}
    inputs |= {f"{captions}:1": microtome.Text("a red car"), f"{captions}:3": microtome.Text("a cat")}
    inputs |= {f"{table}::0": microtome.Text("a cat"), f"{table}::1": microtome.Text("a hat")}
    with serving(tmp_path, tower_models, "*", default_model="siglip") as gateway:
        done = run(*words, "--url", gateway.url)
        assert 3 == done.returncode, done.stderr
        with microtome.Client(gateway.url) as client:
            expected = {key: client.embed(one, model="siglip") for key, one in inputs.items()}
    rows = [row for path in ray_collection.shards(place / "words") for row in pq.read_table(path).to_pylist()]
    assert sorted(expected) == sorted(row["key"] for row in rows)
    for row in rows:
        (vector,) = (value for name, value in row.items() if name != "key")
        np.testing.assert_allclose(vector, expected[row["key"]], atol=1e-6)
    manifest = json.loads((place / "words" / "_microtome" / "manifest.json").read_text())
    assert {"image", "text"} == {manifest["model"]["tower"], manifest["model"]["also"]["tower"]}
    (fault,) = errors(place / "words" / "_microtome" / "errors")
    assert f"{captions}:4" == fault["key"]
    tower = tower_models / "siglip_text" / "1"
    for more, said in ((["--text", "a"], "--text needs a gateway"), ([], "is a text tower")):
        done = run(captions, "--saved-model", tower, "--engine", "ray", "--out", tmp_path / "no", *more)
        assert (2, True) == (done.returncode, said in done.stderr), done.stderr
    assert not (tmp_path / "no").exists()
    done = run(captions, "--saved-model", tower_models / "siglip_image" / "1", "--out", tmp_path / "no.jsonl")
    told = [json.loads(line)["type"] for line in (tmp_path / "no.jsonl.errors.jsonl").read_text().splitlines()]
    assert (3, "unsupported-modality", 3) == (done.returncode, told[0], len(told)), done.stderr


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory, lite0_models: Path) -> Iterator[Gateway]:
    """A gateway over the default model that wants no key, in the place of the session's."""
    with serving(tmp_path_factory.mktemp("g"), lite0_models) as gateway:
        yield gateway


def test_a_gpu_that_tensorflow_does_not_see_is_a_sentence(place: Path, model: Path, photos: Path) -> None:
    """Ray hands out GPUs by count; a worker whose TensorFlow has none says so, rather than compute on its CPU."""
    with ray_collection.cluster(workers=1) as found:
        found.add_node(num_cpus=1, num_gpus=1)
        words = ["--engine", "ray", "--ray-address", found.address, "--saved-model", model]
        done = run(photos / "000", *words, "--out", place / "gpu")
    assert (2, True) == (done.returncode, "TensorFlow sees none" in done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_shards_go_into_postgresql_as_the_guide_says(repository: Path) -> None:
    """The block of the guide, run as it stands: make docs-run has no user for PostgreSQL."""
    page = (repository / "docs" / "guides" / "ray.md").read_text(encoding="utf-8")
    (block,) = [one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "pgserver" in one]
    numbers = np.random.default_rng(1).random((40, 12), np.float32)
    table = pa.table({"key": [f"{n}.jpg" for n in range(40)], "middle": list(numbers)})
    schema = pa.schema([("key", pa.string()), ("middle", pa.list_(pa.float32(), 12))])
    # Not pytest's folder, which PostgreSQL's user may not enter.
    with tempfile.TemporaryDirectory(prefix="postgresql-", ignore_cleanup_errors=True) as place:
        Path(place).chmod(0o755)
        (Path(place) / "vectors").mkdir()
        pq.write_table(table.cast(schema), Path(place) / "vectors" / "vectors-1.parquet")
        words = [sys.executable, "-c", block]
        done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=120, check=False)
    assert 0 == done.returncode, done.stderr
    assert "0.000 0.jpg" == done.stdout.splitlines()[0]
