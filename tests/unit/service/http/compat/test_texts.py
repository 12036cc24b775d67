"""Texts in every contract that has them, for a model of images and text, and the refusal where there is none."""

from base64 import b64encode
from typing import Any

import numpy as np
import pytest

from service.core.requests import Embedded
from service.http.compat.texts import tokens, tokens_of
from tests.fakes.model_server import FakeModelServer, card, towers
from tests.pictures import png
from tests.unit.service.http.conftest import Gateway

IMAGE = b64encode(png()).decode()
URI = f"data:image/png;base64,{IMAGE}"
CAT = np.array([99.0, 97.0, 116.0]) / np.linalg.norm([99.0, 97.0, 116.0])
"""Of the text `cat`: the fake's text tower returns the first three characters."""

TEXT = {"type": "text", "text": "cat"}
PICTURE = {"type": "image_url", "image_url": {"url": URI}}
ENCODED = {"type": "image_base64", "image_base64": URI}
OPENAI, COHERE, VOYAGE = "/v1/embeddings", "/v2/embed", "/v1/multimodalembeddings"


@pytest.fixture
def server(gateway: Gateway) -> FakeModelServer:
    """A model of images and text behind the gateway."""
    pair = towers()
    gateway.server.current, gateway.server.words = pair.of("Image"), pair.of("Text")
    return gateway.server


def vectors(path: str, answer: dict[str, Any]) -> list[list[float]]:
    """Return what an answer holds, as its contract has it."""
    if path == COHERE:
        return list(answer["embeddings"]["float"])
    return [entry["embedding"] for entry in answer["data"]]


@pytest.mark.parametrize(
    ("path", "body", "texts"),
    [
        (OPENAI, {"input": "cat"}, [0]),
        (OPENAI, {"input": ["cat", URI]}, [0]),
        (OPENAI, {"input": [URI, {"text": "cat"}]}, [1]),
        (OPENAI, {"input": [TEXT, PICTURE]}, [0]),
        (OPENAI, {"input": ["cat"], "modality": "text"}, [0]),
        (OPENAI, {"messages": [{"role": "user", "content": "cat"}]}, [0]),
        (OPENAI, {"messages": [{"role": "user", "content": [TEXT]}]}, [0]),
        (COHERE, {"texts": ["cat", "cat"], "input_type": "search_query", "images": []}, [0, 1]),
        (COHERE, {"inputs": [{"content": [PICTURE]}, {"content": [TEXT]}], "truncate": "END"}, [1]),
        (VOYAGE, {"inputs": [{"content": [TEXT]}, {"content": [ENCODED]}], "truncation": True}, [0]),
    ],
)
async def test_texts_are_embedded(
    gateway: Gateway, server: FakeModelServer, path: str, body: dict[str, object], texts: list[int]
) -> None:
    """Beside images, in the order of the request; without a text tower they are refused with the words of before."""
    answer = await gateway.client.post(path, json=body | {"model": "pair"})
    assert answer.status_code == 200, answer.text
    found = vectors(path, answer.json())
    for index, vector in enumerate(found):
        assert (index in texts) == np.allclose(vector, CAT, atol=1e-6)
    assert ("words" if len(texts) == len(found) else "toy, words") == answer.headers["X-Model"]
    refused = await gateway.client.post(path, json=body | {"model": "toy"})
    assert (400, True) == (refused.status_code, "embeds images only" in refused.text)


async def test_an_address_is_a_text_where_the_request_says_so(gateway: Gateway, server: FakeModelServer) -> None:
    """`modality` decides what strings are."""
    body = {"input": ["https://example.com/a.jpg"], "model": "pair", "modality": "text"}
    assert 200 == (await gateway.client.post(OPENAI, json=body)).status_code
    for more, words in (({"modality": "image"}, "is image"), ({"modality": ["text"]}, "image or text")):
        answer = await gateway.client.post(OPENAI, json={"input": ["cat"], "model": "pair", **more})
        assert (400, True) == (answer.status_code, words in answer.text)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (OPENAI, {"messages": [{"content": [TEXT, PICTURE]}]}, "of images or of texts"),
        (OPENAI, {"input": [{"text": 3}]}, "Expected a text"),
        (OPENAI, {"input": [{"text": "cat", "image": IMAGE}]}, "something else"),
        (COHERE, {"texts": ["cat"], "images": [URI]}, "several"),
        (COHERE, {"texts": ["catcatcat"], "truncate": "NONE"}, "not cut"),
        (COHERE, {"texts": ["cat"], "truncate": "START"}, "one of NONE, END"),
        (VOYAGE, {"inputs": [{"content": [TEXT, PICTURE]}]}, "something else"),
        (VOYAGE, {"inputs": [{"content": [{"type": "text", "text": "x" * 9}]}], "truncation": False}, "not cut"),
    ],
)
async def test_what_is_no_text_is_told(
    gateway: Gateway, server: FakeModelServer, path: str, body: dict[str, object], words: str
) -> None:
    """No vector is of a text and an image together, and no text is cut where the request forbids it."""
    answer = await gateway.client.post(path, json=body | {"model": "pair"})
    assert (400, True) == (answer.status_code, words in answer.text), answer.text


async def test_usage_counts_tokens(gateway: Gateway, server: FakeModelServer) -> None:
    """Those of texts, and one for each image."""
    answer = (await gateway.client.post(OPENAI, json={"model": "pair", "input": ["cat", URI]})).json()
    assert {"prompt_tokens": 4, "total_tokens": 4} == answer["usage"]
    texts = (await gateway.client.post(COHERE, json={"model": "pair", "texts": ["cat", "catcat"]})).json()
    assert ({"input_tokens": 8}, ["cat", "catcat"]) == (texts["meta"]["billed_units"], texts["texts"])
    words = towers().of("Text")
    assert [0, 3, 5] == [tokens(words, text) for text in ("", "cat", "catcat")]
    assert 0 == tokens_of(Embedded(card(), []), [])


async def test_weaviates_objects_have_texts_and_images(gateway: Gateway, server: FakeModelServer) -> None:
    """Each list has its own vectors; a default model without a text tower refuses texts."""
    gateway.server.current = towers().of("Image")
    told = (await gateway.client.post("/vectorize", json={"images": [IMAGE]})).json()
    assert ([], 1) == (told["textVectors"], len(told["imageVectors"]))
    refused = await gateway.client.post("/vectorize", json={"texts": ["cat"], "images": [IMAGE]})
    assert (400, True) == (refused.status_code, "embeds images only" in refused.json()["error"])
