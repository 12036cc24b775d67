"""Images and texts of one space: KerasHub's vectors over HTTP and gRPC; a tower that is replaced alone under load."""

import csv
import io
import json
import shutil
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any

import grpc
import httpx
import keras
import numpy as np
import pyarrow
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

import microtome
from microtome.commands.embed import command as embed_command
from microtome.commands.search import command as search
from microtome.manifest import TokensSpec
from microtome.tokenization import FILE, Tokenizer, unpacked
from microtome.v1 import embedding_pb2 as pb
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub
from tests.e2e.answers import relative_error
from tests.e2e.configured import ConfiguredModelServer
from tests.e2e.processes import Gateway, ModelServer, Valkey, eventually, free_port
from tests.transformer_models import (
    TOWERS,
    built,
    image_side,
    image_vectors,
    text_vectors,
    tokens_of,
)

TOLERANCE = 1e-4
WORDS = ["a photo of a cat", "Ein Hund schläft!", ""]
NAMES = ("clip_image", "clip_text")


def picture(side: int) -> tuple[bytes, NDArray[np.uint8]]:
    """Return a picture of a model's own size, so that nothing is resized or cut, and its pixels [1, S, S, 3]."""
    pixels = np.random.default_rng(5).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), pixels[None]


PHOTO = {"b64": b64encode(picture(40)[0]).decode()}
TEXT = {"text": "a cat"}


def tokenizer(models: Path, name: str) -> tuple[Tokenizer, TokensSpec]:
    """Return the tokenizer that was exported with a family's text tower."""
    spec = tokens_of(models, name)
    packed = (models / f"{name}_text" / "1" / "assets.extra" / FILE).read_bytes()
    return Tokenizer.load(unpacked(packed, spec.tokenizer), spec), spec


@pytest.fixture(scope="module")
def gateways(directory: Path, tower_models: Path) -> Iterator[tuple[Gateway, Gateway]]:
    """Two gateways that share a Valkey, over one model server with both families."""
    valkey, server = Valkey(directory), ModelServer(directory, tower_models)
    settings = {"redis_url": valkey.url, "default_model": "clip"}
    one = Gateway(directory, server.address, "clip_image,*", grpc_port=free_port(), **settings)
    other = Gateway(directory, server.address, "*", cache_bytes=0, **settings)
    processes = (valkey, server, one, other)
    try:
        for process in processes:
            process.start()
        with one.client() as client:
            eventually(lambda: len(client.get("/models").json()["families"]) == len(TOWERS), "both families are served")
        yield one, other
    finally:
        for process in reversed(processes):
            process.destroy()


@pytest.mark.parametrize("name", TOWERS)
def test_images_and_texts_meet_in_kerashubs_space(
    gateways: tuple[Gateway, Gateway], tower_models: Path, name: str
) -> None:
    """Mixed in one request, over HTTP and gRPC: KerasHub's own vectors, also through the cache of another gateway."""
    network = built(name)
    encoder, _ = tokenizer(tower_models, name)
    photo, pixels = picture(image_side(network))
    expected = np.concatenate(
        [
            text_vectors(network, np.stack([encoder.ids(text) for text in WORDS])),
            image_vectors(name, network, pixels),
        ]
    )
    keras.utils.clear_session()
    items = [*({"text": text} for text in WORDS), {"b64": b64encode(photo).decode()}]
    one, other = gateways
    for gateway, cache in ((one, "miss"), (one, "hit"), (other, "hit")):
        with gateway.client() as client:
            # The first vectors reach Valkey behind the answer.
            answer = client.post("/embed", json={"inputs": items, "model": name}).json()
            found = np.array([embedding["vector"] for embedding in answer["embeddings"]])
            assert relative_error(found, expected) <= TOLERANCE
            assert gateway is other or {cache} == {embedding["cache"] for embedding in answer["embeddings"]}
            assert ["text"] * len(WORDS) + ["image"] == [embedding["tower"] for embedding in answer["embeddings"]]
            assert 1 == len({tower["space"] for tower in answer["towers"]})
    with grpc.insecure_channel(one.grpc) as channel:
        stub = EmbeddingServiceStub(channel)
        images = [*(pb.Image(text=text) for text in WORDS), pb.Image(data=photo)]
        options = pb.EmbedOptions(model=name, cache=pb.CACHE_USE_BYPASS)
        told = stub.Embed(pb.EmbedRequest(options=options, images=images))
        rows = [np.frombuffer(result.embeddings[0].data, "<f4") for result in told.results]
        assert relative_error(np.array(rows), expected) <= TOLERANCE
        assert [f"{name}_image", f"{name}_text"] == [tower.name for tower in told.towers]
        sent = [pb.EmbedStreamRequest(id=str(i), image=image) for i, image in enumerate(images)]
        sent[0].options.CopyFrom(options)
        streamed = {answer.id: answer.result for answer in stub.EmbedStream(iter(sent))}
    rows = [np.frombuffer(streamed[str(i)].embeddings[0].data, "<f4") for i in range(len(images))]
    assert relative_error(np.array(rows), expected) <= TOLERANCE


def test_a_text_without_a_model_goes_to_the_default_family(gateways: tuple[Gateway, Gateway]) -> None:
    """MICROTOME_DEFAULT_MODEL names it, also for images alone; metrics count each tower, and the family is ready."""
    with gateways[0].client() as client:
        assert "clip_text" == client.post("/embed", json={"text": "a dog"}).json()["model"]
        assert "clip_image" == client.post("/embed", content=picture(40)[0]).json()["model"]
        told = client.get("/metrics").text
        assert 'microtome_vectors_total{cache="miss",model="clip_text"}' in told
        assert 'microtome_model_ready{model="clip"} 1.0' in told
        assert 'microtome_stage_seconds_count{stage="tokenize"}' in told


class Asking(Thread):
    """Asks a family for an image, a text, or both, again and again, and keeps the answers."""

    def __init__(self, gateway: Gateway, items: list[dict[str, str]]) -> None:
        super().__init__(daemon=True)
        self.gateway = gateway
        self.items = items
        self.answers: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.seen: list[tuple[tuple[float, float], int]] = []
        """When each request began and ended, and the version that answered."""
        self.stopping = Event()

    def run(self) -> None:
        """Ask until it is told to stop."""
        with self.gateway.client() as client:
            while not self.stopping.is_set():
                body = {"inputs": self.items, "model": "clip", "cache": "bypass"}
                start = monotonic()
                answer = client.post("/embed", json=body)
                if answer.status_code == httpx.codes.OK:
                    self.answers.append(answer.json())
                    self.seen.append(((start, monotonic()), self.answers[-1]["towers"][0]["version"]))
                else:
                    self.failures.append(answer.text)


@pytest.fixture
def replaced(tower_models: Path, tmp_path: Path) -> Path:
    """Return a models directory with version 2 of both CLIP towers: SigLIP's, which say that they are CLIP's."""
    for name in NAMES:
        version = tmp_path / name / "2"
        shutil.copytree(tower_models / name.replace("clip", "siglip") / "1", version)
        for file in (version / "saved_model.pb", version / "assets.extra" / "manifest.json"):
            # Of equal length, so that nothing around it changes.
            file.write_bytes(file.read_bytes().replace(b'"family": "siglip",', b'"family": "clip",  '))
    return tmp_path


class Swap:
    """Both CLIP towers, whose model server keeps two versions of each, and a gateway that is asked all the time."""

    def __init__(self, directory: Path, models: Path) -> None:
        directory.mkdir()
        self.models = directory / "models"
        for name in NAMES:
            shutil.copytree(models / name, self.models / name)
        keeping = 'model_platform: "tensorflow" model_version_policy { latest { num_versions: 2 } }'
        config = "".join(f'config {{ name: "{name}" base_path: "{self.models / name}" {keeping} }}' for name in NAMES)
        (directory / "served.config").write_text(f"model_config_list {{ {config} }}", encoding="utf-8")
        self.server = ConfiguredModelServer(directory, self.models)
        self.gateway = Gateway(directory, self.server.address, ",".join(NAMES))
        self.asking = [Asking(self.gateway, items) for items in ([PHOTO], [TEXT], [PHOTO, TEXT])]

    def start(self, client: httpx.Client) -> None:
        """Let it serve, and ask."""
        self.server.start()
        self.gateway.start()
        eventually(lambda: client.get("/models/clip").is_success, "the family is served")
        for thread in self.asking:
            thread.start()
        self.more("answers of the first pair")

    def more(self, what: str) -> None:
        """Wait for further answers of each kind."""
        before = [len(thread.answers) for thread in self.asking]
        eventually(lambda: all(len(t.answers) > n + 5 for t, n in zip(self.asking, before, strict=True)), what)

    def publish(self, version: Path) -> None:
        """Add a version, at one time as an export does."""
        shutil.copytree(version, self.models / "2.new")
        (self.models / "2.new").rename(self.models / version.parent.name / "2")

    def stop(self) -> None:
        """End everything."""
        for thread in self.asking:
            thread.stopping.set()
            if thread.is_alive():
                thread.join()
        self.gateway.destroy()
        self.server.destroy()


def used(client: httpx.Client) -> list[int]:
    """Return the versions of the pair in use."""
    return [tower["version"] for tower in client.get("/models/clip").json()["towers"]]


def alone(client: httpx.Client, version: int) -> dict[str, list[float]]:
    """Return each tower's vector of one version, asked for by its own name."""
    found = {}
    for name, item in zip(NAMES, (PHOTO, TEXT), strict=True):
        answer = client.post("/embed", json={"inputs": [item], "model": name, "version": version}).json()
        found[answer["towers"][0]["tower"]] = answer["embeddings"][0]["vector"]
    return found


def test_a_tower_that_is_replaced_alone_waits_for_the_other(
    directory: Path, tower_models: Path, replaced: Path
) -> None:
    """Under load no answer mixes spaces and none fails: the old pair, then the new one for all requests."""
    swap = Swap(directory / "swap", tower_models)
    try:
        with swap.gateway.client() as client:
            swap.start(client)
            known = {1: alone(client, 1)}
            swap.publish(replaced / NAMES[0] / "2")
            eventually(lambda: client.get(f"/models/{NAMES[0]}").json()["version"] == 2, "one tower alone is replaced")
            swap.more("answers while the towers differ")
            assert [1, 1] == used(client)
            swap.publish(replaced / NAMES[1] / "2")
            eventually(lambda: used(client) == [2, 2], "the new pair is used")
            swap.more("answers of the new pair")
            known[2] = alone(client, 2)
    finally:
        swap.stop()
    assert [] == [failure for thread in swap.asking for failure in thread.failures]
    assert known[1]["text"][:8] != known[2]["text"][:8]
    for thread in swap.asking:
        versions = [answer["towers"][0]["version"] for answer in thread.answers]
        assert sorted(versions) == versions, "no way back"
        assert {1, 2} == set(versions)
        for answer, version in zip(thread.answers, versions, strict=True):
            assert 1 == len({tower["space"] for tower in answer["towers"]})
            for embedding in answer["embeddings"]:
                assert relative_error(embedding["vector"], known[version][embedding["tower"]]) <= TOLERANCE
    # A space never comes back, whichever kind of request saw it first: times of all are one order.
    times = sorted((moment, versions) for thread in swap.asking for moment, versions in thread.seen)
    switched = min(end for (_, end), version in times if version == 2)
    assert all(version == 2 for (start, _), version in times if start > switched)


def test_commands_take_words(
    gateways: tuple[Gateway, Gateway], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder is searched by words; lines, strings of a column and --text are embedded; photos get labels in words."""
    url = ["--url", gateways[0].url, "--model", "siglip"]
    photos, captions, table = tmp_path / "photos", tmp_path / "captions.txt", tmp_path / "captions.parquet"
    photos.mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{index}.png")
    with microtome.Client(gateways[0].url) as client:
        images = client.embed(sorted(photos.iterdir()), model="siglip")
        words = {text: client.embed(microtome.Text(text), model="siglip") for text in ("a red car", "a cat", "")}
    assert 0 == search.main(["search", str(photos), "a red car", str(photos / "1.png"), "--json", *url])
    by_words, by_photo = json.loads(capsys.readouterr().out)["results"]
    cosines = {str(index): float(images[index] @ words["a red car"]) for index in range(3)}
    order = sorted(cosines, key=cosines.__getitem__, reverse=True)
    assert [f"{name}.png" for name in order] == [one["photo"] for one in by_words["nearest"]]
    assert [pytest.approx(cosines[name], abs=1e-4) for name in order] == [one["score"] for one in by_words["nearest"]]
    assert {"0.png", "2.png"} == {one["photo"] for one in by_photo["nearest"]}
    # A photo that is not there is no text.
    assert 3 == search.main(["search", str(photos), "a cat", "gone.jpg", *url])
    assert "gone.jpg cannot be looked for" in capsys.readouterr().err

    captions.write_text("a red car\n\na cat\n")
    parquet.write_table(pyarrow.table({"caption": ["a cat", ""]}), table)
    out = tmp_path / "texts.npy"
    asked = ["embed", str(captions), f"{table}::caption", str(photos / "0.png"), "--text", "a cat", "--out", str(out)]
    assert 0 == embed_command.main([*asked, *url])
    keys = [json.loads(line) for line in (tmp_path / "texts.npy.keys.jsonl").read_text().splitlines()]
    wanted = {"a cat": "a cat", f"{captions}:1": "a red car", f"{captions}:3": "a cat"}
    wanted |= {f"{table}::0": "a cat", f"{table}::1": ""}
    assert [*wanted, str(photos / "0.png")] == keys
    np.testing.assert_allclose(np.load(out), [*(words[text] for text in wanted.values()), images[0]], atol=1e-6)
    model = json.loads((tmp_path / "texts.npy.about.json").read_text())["model"]
    assert ("text", "image", True) == (model["tower"], model["also"]["tower"], model["space"] == model["also"]["space"])

    table_of_labels = tmp_path / "labels.csv"
    labels = ["--labels", "a red car, a cat", "--template", "{}", "--top-k", "2"]
    assert 0 == embed_command.main(["classify", str(photos), *labels, "--out", str(table_of_labels), *url])
    rows = list(csv.DictReader(table_of_labels.read_text(encoding="utf-8").splitlines()))
    assert [{"a red car", "a cat"}] * 3 == [{row["label"] for row in rows[start : start + 2]} for start in (0, 2, 4)]
