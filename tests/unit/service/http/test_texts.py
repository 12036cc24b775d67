"""POST /embed with texts: alone and beside images, in every form of answer; families in the lists of models."""

import io
from base64 import b64encode

import httpx
import jsonschema
import numpy as np
import ormsgpack
import pytest

from service.core.remote_images import MAX_TEXT, Text
from service.http.bodies import BodyLimits, read_json
from tests.fakes.model_server import FakeModelServer, towers
from tests.pictures import png
from tests.unit.service.http.conftest import Gateway

IMAGE = {"b64": b64encode(png()).decode()}
CAT = [99.0, 97.0, 116.0]
SPACE = towers().of("Image").manifest.space


@pytest.fixture
def server(gateway: Gateway) -> FakeModelServer:
    """A model of images and text behind the gateway."""
    pair = towers()
    gateway.server.current, gateway.server.words = pair.of("Image"), pair.of("Text")
    return gateway.server


async def post(gateway: Gateway, body: object, query: str = "?model=pair", **headers: str) -> httpx.Response:
    """Embed what JSON holds."""
    return await gateway.client.post(f"/embed{query}", json=body, headers=headers)


async def test_a_text_is_embedded(gateway: Gateway, server: FakeModelServer) -> None:
    """Its vector, and which tower, model, version, fingerprint and space it is of; the second time from the cache."""
    answer = await post(gateway, {"text": "cat"})
    assert answer.status_code == 200, answer.text
    body, text = answer.json(), towers().of("Text")
    assert ["text", CAT, 0, "miss"] == [body["embeddings"][0][name] for name in ("tower", "vector", "index", "cache")]
    tower = {"tower": "text", "model": "words", "version": 1, "fingerprint": text.manifest.fingerprint, "space": SPACE}
    assert [tower] == body["towers"]
    assert ("words", text.manifest.fingerprint) == (body["model"], body["fingerprint"])
    assert ("text", SPACE, "words") == tuple(answer.headers[name] for name in ("X-Tower", "X-Space", "X-Model"))
    assert "hit" == (await post(gateway, {"inputs": [{"text": "cat"}]})).json()["embeddings"][0]["cache"]
    assert 1 == len(server.calls)


async def test_texts_and_images_keep_their_order(gateway: Gateway, server: FakeModelServer) -> None:
    """Each item by its tower; the answer names both, follows the published schema, and headers are lists."""
    answer = await post(gateway, {"inputs": [{"text": "cat"}, IMAGE, {"text": "dog"}], "output": ["mean", "corner"]})
    body = answer.json()
    assert ["text", "text", "image", "image", "text", "text"] == [e["tower"] for e in body["embeddings"]]
    assert [0, 0, 1, 1, 2, 2] == [e["index"] for e in body["embeddings"]]
    assert ["image", "text"] == [tower["tower"] for tower in body["towers"]]
    assert ("toy, words", "1, 1", "image, text") == tuple(
        answer.headers[name] for name in ("X-Model", "X-Model-Version", "X-Tower")
    )
    api = (await gateway.client.get("/openapi.json")).json()
    schema = api["paths"]["/embed"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(body, schema | {"components": api["components"]})
    images = await post(gateway, {"images": [IMAGE, {"text": "cat"}], "output": ["mean"]})
    assert CAT == images.json()["embeddings"][1]["vector"]


async def test_binary_forms_hold_rows_of_both_towers(gateway: Gateway, server: FakeModelServer) -> None:
    """One matrix in the order of the request, where outputs fit; MessagePack as JSON."""
    body = {"inputs": [IMAGE, {"text": "cat"}]}
    packed = ormsgpack.unpackb((await post(gateway, body, Accept="application/msgpack")).content)
    rows = await post(gateway, body, Accept="application/octet-stream")
    array = np.load(io.BytesIO((await post(gateway, body, Accept="application/x-npy")).content))
    assert ("2,3", "mean", "image, text") == tuple(rows.headers[name] for name in ("X-Shape", "X-Output", "X-Tower"))
    assert CAT == array[1].tolist() == np.frombuffer(packed["embeddings"][1]["vector"], "<f4").tolist()
    np.testing.assert_array_equal(array, np.frombuffer(rows.content, "<f4").reshape(2, 3))
    for query in ("?model=pair&encoding=int8", "?model=pair&output=corner&output=mean"):
        assert (await post(gateway, body, query, Accept="application/octet-stream")).status_code in {400, 406}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"text": "cat", "model": "toy"}, 400, "Text 0: Expected an image for model 'toy'"),
        ({"text": "cat", "version": 1}, 400, "`version`"),
        ({"text": "cat", "image": "AAAA"}, 400, "not both"),
        ({"text": ["cat"]}, 400, "Expected"),
        ({"inputs": [{"text": "cat", "crop": [0, 0, 1, 1]}]}, 400, "`crop` with an image"),
        ({"inputs": [{"text": "cat", "b64": "AAAA"}]}, 400, "one of b64, data_uri, url, text"),
        ({"inputs": []}, 400, "an empty list"),
        ({"text": "cat", "output": "nothing"}, 404, "output of model 'words'"),
        ({"inputs": [{"text": "a"}] * 4}, 413, "at most 3"),
    ],
)
async def test_what_is_wrong_is_told(
    gateway: Gateway, server: FakeModelServer, body: dict[str, object], status: int, message: str
) -> None:
    """A problem that names the item, or the request's form."""
    answer = await post(gateway, {"model": "pair", **body}, "")
    assert (status, True) == (answer.status_code, message in answer.json()["detail"]), answer.text


async def test_a_bad_item_can_be_skipped(gateway: Gateway, server: FakeModelServer) -> None:
    """Of images and texts alike; 207 names each by its place."""
    body = {"inputs": [{"b64": "AAAA"}, {"text": "cat"}, IMAGE], "on_error": "skip"}
    answer = await post(gateway, body)
    assert (207, [1, 2]) == (answer.status_code, [e["index"] for e in answer.json()["embeddings"]])
    assert [0] == [error["index"] for error in answer.json()["errors"]]
    wrong = await post(gateway, body, "?model=toy")
    assert ["Image 0: ", "Text 1: "] == [
        str(error["detail"])[: 9 - i] for i, error in enumerate(wrong.json()["errors"])
    ]


async def test_a_crop_of_the_request_is_of_its_images(gateway: Gateway, server: FakeModelServer) -> None:
    """A text has no regions, and is answered once."""
    answer = await post(gateway, {"inputs": [IMAGE, {"text": "cat"}], "crop": [[0, 0, 0.5, 1], [0.5, 0, 0.5, 1]]})
    assert [(0, True), (1, True), (2, False)] == [(e["index"], "crop" in e) for e in answer.json()["embeddings"]]
    assert CAT == answer.json()["embeddings"][2]["vector"]


@pytest.mark.parametrize("text", ["ä" * 1_000, '\\"\n\t\u2028' * 400, "\U0001f408" * 400, "a" * 8_600])
async def test_long_texts_come_whole(gateway: Gateway, server: FakeModelServer, text: str) -> None:
    """However JSON writes them: the last character counts, and equal texts are one."""
    answer = await post(gateway, {"inputs": [{"text": "xyz"}, {"text": text}]})
    assert answer.status_code == 200, answer.text
    assert [float(byte) for byte in text.encode()[:3]] == answer.json()["embeddings"][1]["vector"]


def test_a_text_that_is_too_long_is_refused() -> None:
    """Before it is unescaped, where it is much too long."""
    limits = BodyLimits(1 << 20, 1 << 22, 8)
    fits = read_json(b'{"text": "' + b"\\u00e4" * (MAX_TEXT // 2) + b'"}', limits=limits).images[0]
    assert fits == Text("ä" * (MAX_TEXT // 2))
    assert "at most" in str(read_json(b'{"text": "' + b"a" * (7 * MAX_TEXT) + b'"}', limits=limits).images[0])


async def test_a_family_is_listed(gateway: Gateway, server: FakeModelServer) -> None:
    """GET /models has it with its towers, and the models with theirs; so have its own page and /readyz."""
    body = (await gateway.client.get("/models")).json()
    (family,) = body["families"]
    assert ("pair", True, ["toy", "words"]) == (family["name"], family["ready"], [t["model"] for t in family["towers"]])
    assert [("toy", "pair", "image"), ("words", "pair", "text")] == [
        (model["name"], model["family"], model["tower"]) for model in body["models"]
    ]
    assert {SPACE} == {model["space"] for model in body["models"]} | {tower["space"] for tower in family["towers"]}
    assert family == (await gateway.client.get("/models/pair")).json()
    assert {"toy": None, "words": None, "pair": None} == (await gateway.client.get("/readyz")).json()["models"]


async def test_a_response_is_kept_for_the_name_that_was_asked(gateway: Gateway, server: FakeModelServer) -> None:
    """The family's image tower may be another version than the model's: one's written answer is not the other's."""
    for _ in range(3):
        assert "1" == (await gateway.client.post("/embed?model=pair", content=png())).headers["X-Model-Version"]
    server.current = towers(2).of("Image")
    server.words = towers(2).of("Text")
    assert "2" == (await gateway.client.post("/embed?model=pair", content=png())).headers["X-Model-Version"]
