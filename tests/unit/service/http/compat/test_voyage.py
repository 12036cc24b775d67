"""Voyage AI's contract: inputs of one image each, numbers in base64, the usage that its client needs, its errors."""

from base64 import b64decode, b64encode

import numpy as np
import pytest

from tests.pictures import png
from tests.unit.service.http.conftest import Gateway
from tests.unit.service.http.test_responses import calibrate

PATH = "/v1/multimodalembeddings"
URI = f"data:image/png;base64,{b64encode(png(1)).decode()}"
INPUTS = {"model": "toy", "inputs": [{"content": [{"type": "image_base64", "image_base64": URI}]}]}


async def raw(gateway: Gateway) -> np.ndarray:
    """The same image's vector by POST /embed."""
    answer = await gateway.client.post("/embed", content=png(1))
    return np.array(answer.json()["embeddings"][0]["vector"])


@pytest.mark.parametrize(
    ("kind", "dtype"), [("float", "<f4"), ("int8", "i1"), ("uint8", "u1"), ("binary", "i1"), ("ubinary", "u1")]
)
async def test_base64_holds_the_numbers_that_lists_hold(gateway: Gateway, kind: str, dtype: str) -> None:
    """In the type asked for, as its client reads them."""
    calibrate(gateway)
    asked = INPUTS | {"output_dtype": kind, "input_type": None, "truncation": True}
    lists = (await gateway.client.post(PATH, json=asked)).json()["data"][0]["embedding"]
    letters = await gateway.client.post(PATH, json=asked | {"encoding_format": "base64"})
    found = np.frombuffer(b64decode(letters.json()["data"][0]["embedding"]), dtype)
    np.testing.assert_allclose(found, lists, rtol=1e-6)


async def test_floats_are_those_of_our_own_route(gateway: Gateway) -> None:
    """With the length 1, unless the request says otherwise; an address in data URI's form is an image as well."""
    vector = await raw(gateway)
    for inputs in (INPUTS, {"inputs": [{"content": [{"type": "image_url", "image_url": URI}]}]}):
        answer = (await gateway.client.post(PATH, json=inputs)).json()
        np.testing.assert_allclose(answer["data"][0]["embedding"], vector / np.linalg.norm(vector), rtol=1e-6)
    answer = (await gateway.client.post(PATH, json=INPUTS | {"normalize": False})).json()
    np.testing.assert_allclose(answer["data"][0]["embedding"], vector, rtol=1e-6)


async def test_usage_has_what_its_client_adds_up(gateway: Gateway) -> None:
    """All four counters; pixels are those of the images sent."""
    answer = (await gateway.client.post(PATH, json=INPUTS)).json()
    assert {"text_tokens": 0, "image_pixels": 1200, "video_pixels": 0, "total_tokens": 1} == answer["usage"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"inputs": [{"content": [{"type": "text", "text": "a cat"}]}]}, 400, "received text"),
        ({"inputs": [{"content": [{"type": "video_url", "video_url": "https://x/y"}]}]}, 400, "received a video"),
        ({"inputs": [{"content": [{"type": "image_url", "image_url": URI}] * 2}]}, 400, "image_base64 or text"),
        ({"inputs": ["a cat"]}, 400, "something else"),
        ({"inputs": []}, 400, "received none"),
        (INPUTS | {"output_dtype": "float16"}, 400, "one of float"),
        (INPUTS | {"encoding_format": "bytes"}, 400, "one of float, base64"),
        (INPUTS | {"output_dimension": -1}, 400, "`dimensions`"),
        (INPUTS | {"model": "tay"}, 404, "'toy'"),
    ],
)
async def test_errors_are_details(gateway: Gateway, body: dict[str, object], status: int, words: str) -> None:
    """Under `detail`, and nothing beside it."""
    answer = await gateway.client.post(PATH, json=body)
    assert (status, {"detail"}) == (answer.status_code, set(answer.json()))
    assert words in answer.json()["detail"]
