"""Every form of answer holds the same vectors, in the bits that were asked for."""

import io
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace

import httpx
import numpy as np
import ormsgpack
import pytest

from microtome.errors import NotAcceptable
from service.http.negotiation import JSON, MSGPACK, NPY, NPZ, ROWS, chosen
from tests.pictures import png
from tests.unit.service.http.conftest import Gateway
from tests.unit.service.http.test_embed import problem

PICTURES = [("image", png(1)), ("image", png(2))]
DTYPES = {"float32": "<f4", "float16": "<f2", "int8": "i1", "binary": "u1"}


def calibrate(gateway: Gateway) -> None:
    """Give the model ranges for int8."""
    model = gateway.server.current
    outputs = tuple(
        replace(o, quantization={"scheme": "int8", "min": [0.0] * o.dim, "max": [255.0] * o.dim})
        for o in model.manifest.outputs
    )
    gateway.server.current = replace(model, manifest=replace(model.manifest, outputs=outputs))


def rows(answer: httpx.Response) -> np.ndarray:
    """Read raw rows by their headers alone."""
    shape = tuple(map(int, answer.headers["x-shape"].split(",")))
    return np.frombuffer(answer.content, np.dtype(answer.headers["x-dtype"]).newbyteorder("<")).reshape(shape)


def npy(answer: httpx.Response) -> np.ndarray:
    """Read NumPy's file."""
    return np.asarray(np.load(io.BytesIO(answer.content), allow_pickle=False))


def npz(answer: httpx.Response) -> np.ndarray:
    """Read the only array of NumPy's archive."""
    return np.asarray(np.load(io.BytesIO(answer.content), allow_pickle=False)["mean"])


def msgpack(answer: httpx.Response) -> np.ndarray:
    """Read MessagePack with vectors as bytes."""
    body = ormsgpack.unpackb(answer.content)
    dtype = DTYPES[body["encoding"]]
    return np.stack([np.frombuffer(e["vector"], dtype) for e in body["embeddings"]])


async def expected(gateway: Gateway, query: str = "") -> np.ndarray:
    """The vectors as JSON."""
    answer = await gateway.client.post(f"/embed?{query}", files=PICTURES)
    return np.array([e["vector"] for e in answer.json()["embeddings"]], np.float32)


@pytest.mark.parametrize("encoding", DTYPES)
@pytest.mark.parametrize(
    ("media_type", "read"),
    [(ROWS.media_type, rows), (NPY.media_type, npy), (NPZ.media_type, npz), (MSGPACK.media_type, msgpack)],
)
async def test_binary_answers_hold_the_same_vectors(
    gateway: Gateway, encoding: str, media_type: str, read: Callable[[httpx.Response], np.ndarray]
) -> None:
    """In every form and every encoding, rows are those of JSON, written in fewer bits."""
    calibrate(gateway)
    vectors = await expected(gateway)
    answer = await gateway.client.post(
        f"/embed?encoding={encoding}", files=PICTURES, headers={"Accept": f"{media_type}, text/html"}
    )
    assert (200, media_type) == (answer.status_code, answer.headers["content-type"])
    found = read(answer)
    written = {
        "float32": vectors,
        "float16": vectors.astype(np.float16),
        "int8": np.rint(vectors - 128).astype(np.int8),
        "binary": np.packbits(vectors > 0, axis=1),
    }[encoding]
    np.testing.assert_array_equal(found, written)


async def test_base64_is_little_endian_float32(gateway: Gateway) -> None:
    """The letters of `encoding=base64` are the numbers of `encoding=float`."""
    vectors = await expected(gateway)
    body = (await gateway.client.post("/embed?encoding=base64", files=PICTURES)).json()
    found = np.stack([np.frombuffer(b64decode(e["vector"]), "<f4") for e in body["embeddings"]])
    np.testing.assert_array_equal(found, vectors)


@pytest.mark.parametrize("media_type", [JSON.media_type, ROWS.media_type, NPY.media_type, MSGPACK.media_type])
async def test_heat_in_every_form(gateway: Gateway, media_type: str) -> None:
    """One number for each position of a map, cached or not; an output without a map is refused before any work."""
    lengths = np.linalg.norm(await expected(gateway), axis=1, keepdims=True)
    model = gateway.server.current
    mean, corner = model.manifest.outputs
    outputs = (replace(mean, shape=(1, 1, 3)), corner)
    gateway.server.current = replace(model, manifest=replace(model.manifest, outputs=outputs))
    for _ in range(2):
        answer = await gateway.client.post("/embed?heat=true", files=PICTURES, headers={"Accept": media_type})
        assert 200 == answer.status_code
        if media_type == JSON.media_type:
            found = np.array([e["vector"] for e in answer.json()["embeddings"]])
            assert {1} == {e["dim"] for e in answer.json()["embeddings"]}
        else:
            found = {ROWS.media_type: rows, NPY.media_type: npy, MSGPACK.media_type: msgpack}[media_type](answer)
        np.testing.assert_allclose(found, lengths, rtol=1e-6)
    before = len(gateway.server.calls)
    refused = await gateway.client.post("/embed?heat=true&output=corner&cache=bypass", files=PICTURES)
    assert "outputs that keep their map" in refused.json()["detail"]
    assert before == len(gateway.server.calls)


async def test_cut_and_normalised_in_every_form(gateway: Gateway) -> None:
    """`dimensions=2&normalize=true` are unit vectors of the first two numbers, and `dim` says so."""
    query = "normalize=true&dimensions=2"
    raw, found = await expected(gateway), await expected(gateway, query)
    np.testing.assert_allclose(found, raw[:, :2] / np.linalg.norm(raw[:, :2], axis=1, keepdims=True), rtol=1e-6)
    answer = await gateway.client.post(f"/embed?{query}", files=PICTURES, headers={"Accept": ROWS.media_type})
    np.testing.assert_array_equal(rows(answer), found)
    body = (await gateway.client.post(f"/embed?{query}", files=PICTURES)).json()
    assert [2, 2] == [e["dim"] for e in body["embeddings"]]


async def test_several_outputs_are_an_archive(gateway: Gateway) -> None:
    """`output=all` as application/zip has an array for each output, under its name."""
    answer = await gateway.client.post("/embed?output=all", files=PICTURES, headers={"Accept": NPZ.media_type})
    archive = np.load(io.BytesIO(answer.content), allow_pickle=False)
    assert {"mean": (2, 3), "corner": (2, 4)} == {name: archive[name].shape for name in archive}


async def test_headers_say_where_vectors_come_from(gateway: Gateway) -> None:
    """Model, version, fingerprint, cache and every stage stand in the head, also of binary answers."""
    for accept, cache in ((ROWS.media_type, "miss"), ("*/*", "hit")):
        headers = (await gateway.client.post("/embed", content=png(), headers={"Accept": accept})).headers
        assert ("toy", "1", cache) == (headers["x-model"], headers["x-model-version"], headers["x-cache"])
        assert gateway.server.current.manifest.fingerprint == headers["x-fingerprint"]
        stages = [part.split(";dur=")[0] for part in headers["server-timing"].split(", ")]
        computed = ["decode", "infer"] if cache == "miss" else []
        assert {"read", "hash", "cache", *computed, "encode"} <= set(stages)
    mixed = await gateway.client.post("/embed", files=[("a", png()), ("b", png(5))])
    assert "mixed" == mixed.headers["x-cache"]


async def test_skipped_images_are_told_in_the_head_of_rows(gateway: Gateway) -> None:
    """Rows say which images they belong to, and what is wrong with the others."""
    files = [("a", b"no"), ("b", png(1)), ("c", png(2))]
    answer = await gateway.client.post("/embed?on_error=skip", files=files, headers={"Accept": ROWS.media_type})
    assert (207, "1,2", "0=not-an-image") == (answer.status_code, answer.headers["x-index"], answer.headers["x-errors"])
    np.testing.assert_array_equal(rows(answer), await expected(gateway))


@pytest.mark.parametrize(
    ("query", "accept", "status"),
    [
        ("", "text/html", 406),
        ("", "application/json;q=0", 406),
        ("encoding=int8", "application/json", 406),
        ("encoding=float", ROWS.media_type, 406),
        ("output=mean&output=corner", NPY.media_type, 406),
        ("encoding=int8", "*/*", 400),
        ("encoding=int8&normalize=true", "*/*", 400),
        ("dimensions=4", "*/*", 400),
        ("dimensions=4&output=corner", "*/*", 200),
        ("dimensions=4&output=all", "*/*", 400),
    ],
)
async def test_what_does_not_fit_is_refused_before_work(gateway: Gateway, query: str, accept: str, status: int) -> None:
    """No inference is spent on an answer that cannot be given."""
    answer = await gateway.client.post(f"/embed?{query}", content=png(), headers={"Accept": accept})
    assert status == answer.status_code
    assert (status == 200) == bool(gateway.server.calls)
    if status != 200:
        problem(answer)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("text/html, */*;q=0.1", JSON),
        ("application/*;q=0.5, application/x-npy", NPY),
        ("application/json;q=0.2, application/octet-stream;q=0.9", ROWS),
        ("application/x-msgpack", MSGPACK),
        ("application/json;q=x, application/zip", NPZ),
    ],
)
def test_the_best_liked_form_is_chosen(accept: str, form: object) -> None:
    """Quality decides, then specificity, then our own order."""
    assert form == chosen(accept, None, several=False)[0]


async def test_lists_may_stand_in_several_lines(gateway: Gateway) -> None:
    """Accept and Cache-Control mean the same as if all of it stood in one."""
    headers = [("Accept", "text/html"), ("Accept", "application/x-npy"), ("X-Nothing", "1")]
    for _ in range(2):
        answer = await gateway.client.post("/embed", content=png(), headers=headers)
        assert NPY.media_type == answer.headers["content-type"]
    assert "hit" == answer.headers["x-cache"]
    headers += [("Cache-Control", "max-age=0"), ("Cache-Control", "no-cache")]
    assert "miss" == (await gateway.client.post("/embed", content=png(), headers=headers)).headers["x-cache"]


def test_the_encoding_may_choose_the_form() -> None:
    """Who takes anything and wants float16 gets a form that has it."""
    assert (ROWS, "float16") == chosen("*/*", "float16", several=False)
    assert (NPZ, "float16") == chosen("*/*", "float16", several=True)
    with pytest.raises(NotAcceptable, match="application/zip"):
        chosen("image/png", None, several=False)
