"""OpenAI's contract: every way in which its clients write images, every way of writing vectors, its errors."""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping

import httpx
import numpy as np
import pytest

from microtome.errors import ModelServerDown
from service.core.remote_images import Url
from service.http.bodies import BodyLimits
from service.http.compat.openai import read
from tests.pictures import png
from tests.unit.service.http.conftest import Gateway
from tests.unit.service.http.test_responses import calibrate

PATH = "/v1/embeddings"
B64 = b64encode(png(1)).decode()
URI = f"data:image/png;base64,{B64}"
IMAGE: dict[str, object] = {"input": [{"image": B64}]}


async def ask(gateway: Gateway, body: Mapping[str, object], path: str = PATH) -> httpx.Response:
    """Send a request."""
    return await gateway.client.post(path, json=body)


async def one(gateway: Gateway, body: Mapping[str, object]) -> list[float]:
    """The only vector of an answer."""
    answer = await ask(gateway, body)
    assert answer.status_code == 200, answer.text
    (entry,) = answer.json()["data"]
    return list(entry["embedding"])


async def own(gateway: Gateway, **options: object) -> list[float]:
    """The same image's vector by POST /embed."""
    answer = await gateway.client.post("/embed", json={"image": B64, **options})
    return list(answer.json()["embeddings"][0]["vector"])


@pytest.mark.parametrize(
    "body",
    [
        {"input": URI, "modality": "image"},
        {"input": [URI]},
        {"input": [{"image": B64}], "task": "retrieval.query", "late_chunking": False},
        {"input": {"image": URI}, "user": "me"},
        {"input": [{"bytes": B64}], "return_multivector": False},
        {"input": [{"url": URI}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URI}}]}]},
        {
            "messages": [
                {"content": [{"type": "text", "text": ""}, {"type": "image_url", "image_url": URI}]},
            ]
        },
    ],
    ids=["infinity", "haystack", "jina", "jina-one", "jina-bytes", "jina-url", "vllm", "vllm-with-empty-text"],
)
async def test_an_image_is_the_same_however_it_is_written(gateway: Gateway, body: dict[str, object]) -> None:
    """Its vector is that of POST /embed, with the length 1."""
    assert await own(gateway, normalize=True) == await one(gateway, body)


async def test_the_answer_has_what_clients_read(gateway: Gateway) -> None:
    """Objects, indexes, the model as it was asked for, whole numbers in usage; our own facts in the head."""
    two = {"input": [{"image": B64}, {"image": b64encode(png(2)).decode()}], "model": "toy/corner"}
    answer = await ask(gateway, two, "/embeddings")
    body = answer.json()
    assert ("list", "toy/corner", [0, 1]) == (body["object"], body["model"], [e["index"] for e in body["data"]])
    assert {"prompt_tokens": 2, "total_tokens": 2} == body["usage"]
    assert {"embedding"} == {entry["object"] for entry in body["data"]}
    assert ("toy", "1") == (answer.headers["x-model"], answer.headers["x-model-version"])


async def test_a_layer_is_asked_for_in_the_name_or_beside_it(gateway: Gateway) -> None:
    """`model/output`, `output` and `layer` mean the same; in two places at once it is an error."""
    expected = await own(gateway, output="corner", normalize=True)
    same: list[dict[str, object]] = [{"model": "toy/corner"}, {"output": "corner"}, {"model": "toy", "layer": "corner"}]
    for more in same:
        assert expected == await one(gateway, IMAGE | more)
    wrong: list[tuple[dict[str, object], str]] = [
        ({"model": "toy/corner", "layer": "mean"}, "in one place"),
        ({"output": ["mean", "corner"]}, "one output"),
        ({"model": "toy/all"}, "one output"),
    ]
    for more, words in wrong:
        answer = await ask(gateway, IMAGE | more)
        assert 400 == answer.status_code
        assert words in answer.json()["detail"]


async def test_vectors_have_the_length_1_after_the_cut(gateway: Gateway) -> None:
    """Unless the request says otherwise, in Jina's word or in ours."""
    cut = await one(gateway, IMAGE | {"dimensions": 2})
    assert 2 == len(cut)
    assert float(np.linalg.norm(cut)) == pytest.approx(1.0)
    assert await own(gateway) == await one(gateway, IMAGE | {"normalized": False})
    assert await own(gateway) == await one(gateway, IMAGE | {"normalize": False})
    answer = await ask(gateway, IMAGE | {"dimensions": 4})
    assert 400 == answer.status_code
    assert "from 1 to 3" in answer.json()["detail"]


async def test_base64_is_little_endian_float32(gateway: Gateway) -> None:
    """What OpenAI's clients ask for and decode; Jina's word for it works too."""
    expected = await one(gateway, IMAGE)
    same: list[dict[str, object]] = [
        {"encoding_format": "base64"},
        {"embedding_type": "base64"},
        {"embedding_type": ["base64"]},
    ]
    for more in same:
        (entry,) = (await ask(gateway, IMAGE | more)).json()["data"]
        assert expected == pytest.approx(np.frombuffer(b64decode(entry["embedding"]), "<f4").tolist())


@pytest.mark.parametrize("word", ["embedding_type", "encoding_type"])
async def test_bits_are_packed_as_jina_packs_them(gateway: Gateway, word: str) -> None:
    """Set where a number is greater than 0; `binary` is `ubinary` less 128; lists even where base64 is asked for."""
    signs = np.packbits(np.array(await own(gateway)) > 0)
    assert signs.tolist() == await one(gateway, IMAGE | {word: "ubinary"})
    signed = await one(gateway, IMAGE | {word: "binary", "encoding_format": "base64"})
    assert (signs.astype(int) - 128).tolist() == signed


async def test_int8_needs_ranges(gateway: Gateway) -> None:
    """Where the model has them, int8 and uint8 are the same steps, 128 apart; where not, the error says so."""
    answer = await ask(gateway, IMAGE | {"embedding_type": "int8"})
    assert 400 == answer.status_code
    assert "not calibrated" in answer.json()["detail"]
    assert [] == gateway.server.calls
    calibrate(gateway)
    signed = await one(gateway, IMAGE | {"embedding_type": "int8"})
    assert np.rint(np.array(await own(gateway)) - 128).tolist() == signed
    assert [step + 128 for step in signed] == await one(gateway, IMAGE | {"embedding_type": "uint8"})


@pytest.mark.parametrize(
    ("dtype", "order", "numpys"),
    [("float32", "little", "<f4"), ("float32", "big", ">f4"), ("float16", "native", "<f2"), ("float16", "big", ">f2")],
)
async def test_bytes_are_found_by_their_metadata(gateway: Gateway, dtype: str, order: str, numpys: str) -> None:
    """As vLLM writes them: rows without anything between, and in the header where each begins and ends."""
    body = {"input": [{"image": B64}, {"image": b64encode(png(2)).decode()}], "normalize": False}
    bits = {"encoding_format": "bytes", "embed_dtype": dtype, "endianness": order}
    expected = [entry["embedding"] for entry in (await ask(gateway, body)).json()["data"]]
    answer = await ask(gateway, body | bits)
    assert "application/octet-stream" == answer.headers["content-type"]
    metadata = json.loads(answer.headers["metadata"])
    for item, vector in zip(metadata["data"], expected, strict=True):
        assert (dtype, [3]) == (item["embed_dtype"], item["shape"])
        found = np.frombuffer(answer.content[item["start"] : item["end"]], numpys)
        np.testing.assert_allclose(found, vector, rtol=1e-3)
    assert 2 == metadata["usage"]["total_tokens"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": ["a cat"]}, "images only"),
        ({"input": "a cat"}, "images only"),
        ({"input": [{"text": "a cat"}]}, "images only"),
        ({"messages": [{"role": "user", "content": "a cat"}]}, "images only"),
        ({"messages": [{"content": [{"type": "text", "text": "a cat"}]}]}, "images only"),
        (IMAGE | {"modality": "audio"}, "`modality` to be image"),
        ({"input": [[2028, 374]]}, "check_embedding_ctx_length=False"),
        ({"input": [2028, 374]}, "check_embedding_ctx_length=False"),
    ],
)
async def test_text_is_told_what_is_served_here(gateway: Gateway, body: dict[str, object], words: str) -> None:
    """A status that is not tried again, a code of its own, and a sentence that helps."""
    answer = await ask(gateway, body)
    assert (400, "false") == (answer.status_code, answer.headers["x-should-retry"])
    error = answer.json()["error"]
    assert ("unsupported_modality", "input", "invalid_request_error") == (error["code"], error["param"], error["type"])
    assert words in error["message"] == answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "received neither"),
        ({"input": []}, "empty list"),
        ({"input": None}, "received neither"),
        (IMAGE | {"messages": []}, "not both"),
        ({"input": [{"image": B64, "url": URI}]}, "something else"),
        ({"input": [{"image": 1}]}, "Image 0: Expected an image as a string"),
        ({"input": [{"image": "*"}]}, "Image 0: Expected base64"),
        ({"input": [{"image": B64}, {"image": "AAAA"}]}, "Image 1: "),
        ({"messages": [{"content": [{"type": "input_audio"}]}]}, "another type"),
        (IMAGE | {"normalised": True}, "Did you mean `normalized`"),
        (IMAGE | {"encoding_format": "float8"}, "one of float, base64, bytes"),
        (IMAGE | {"embedding_type": ["float", "binary"]}, "`embedding_type` to be one of"),
        (IMAGE | {"embedding_type": "float", "encoding_type": "float"}, "one of `embedding_type`"),
        (IMAGE | {"normalize": True, "normalized": True}, "received both"),
        (IMAGE | {"encoding_format": "bytes", "embedding_type": "binary"}, "to be float"),
        (IMAGE | {"embed_dtype": "float16"}, '"encoding_format": "bytes"'),
        (IMAGE | {"dimensions": 0}, "`dimensions`"),
        (IMAGE | {"return_multivector": True}, "one vector for each image"),
    ],
)
async def test_a_wrong_request_is_told_what_was_expected(gateway: Gateway, body: dict[str, object], words: str) -> None:
    """Each is a 400 in words that help."""
    answer = await ask(gateway, body)
    assert (400, "false") == (answer.status_code, answer.headers["x-should-retry"])
    assert words in answer.json()["error"]["message"]


async def test_only_what_may_succeed_later_is_tried_again(gateway: Gateway) -> None:
    """An unknown model is 404 and named; a model server that is down is 503 with Retry-After."""
    answer = await ask(gateway, IMAGE | {"model": "tay"})
    assert (404, "model_not_found") == (answer.status_code, answer.json()["error"]["code"])
    assert "'toy'" in answer.json()["detail"]
    gateway.server.failure = ModelServerDown("Gone.", retry_after=3)
    answer = await ask(gateway, IMAGE)
    assert (503, "3", "true") == (answer.status_code, *(answer.headers[n] for n in ("retry-after", "x-should-retry")))
    assert "server_error" == answer.json()["error"]["type"]


async def test_models_are_listed_with_their_outputs(gateway: Gateway) -> None:
    """Each under the name by which it can be asked for, alone and in the list."""
    listed = (await gateway.client.get("/v1/models")).json()
    assert "list" == listed["object"]
    assert ["toy", "toy/mean", "toy/corner"] == [entry["id"] for entry in listed["data"]]
    assert [3, 3, 4] == [entry["dimensions"] for entry in listed["data"]]
    for entry in listed["data"]:
        assert ("model", "microtome") == (entry["object"], entry["owned_by"])
        assert isinstance(entry["created"], int)
        assert entry == (await gateway.client.get(f"/v1/models/{entry['id']}")).json()
    missing = await gateway.client.get("/v1/models/tay")
    assert (404, "model_not_found") == (missing.status_code, missing.json()["error"]["code"])


def test_addresses_are_left_to_the_fetcher() -> None:
    """They are read as addresses wherever an image may stand, and fetched by the rules of the core."""
    address = "https://example.com/cat.jpg"
    items = [address, {"image": address}, {"url": address}]
    question = read(json.dumps({"input": items}).encode(), default_model="toy", limits=BodyLimits(10, 1000, 8))
    assert [Url(address)] * 3 == list(question.images)
