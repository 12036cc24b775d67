"""Cohere's contract: images and inputs, several number types at once, its errors."""

from base64 import b64encode

import numpy as np
import pytest

from tests.pictures import encoded, noise, png
from tests.unit.service.http.conftest import Gateway
from tests.unit.service.http.test_responses import calibrate

PATH = "/v2/embed"
URI = f"data:image/png;base64,{b64encode(png(1)).decode()}"
IMAGES = {"model": "toy", "input_type": "image", "images": [URI]}


async def raw(gateway: Gateway) -> np.ndarray:
    """The same image's vector by POST /embed."""
    answer = await gateway.client.post("/embed", content=png(1))
    return np.array(answer.json()["embeddings"][0]["vector"])


async def test_the_request_of_weaviates_module_is_answered(gateway: Gateway) -> None:
    """200 and floats, several images at once."""
    body = {"images": [URI, URI], "model": "toy", "input_type": "image", "embedding_types": ["float"]}
    answer = await gateway.client.post(PATH, json=body)
    vector = await raw(gateway)
    assert 200 == answer.status_code
    np.testing.assert_allclose(answer.json()["embeddings"]["float"], [vector / np.linalg.norm(vector)] * 2, rtol=1e-6)


async def test_every_type_is_of_the_same_vector(gateway: Gateway) -> None:
    """int8 and uint8 by ranges, 128 apart; bits signed and unsigned; all in one answer."""
    calibrate(gateway)
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    answer = await gateway.client.post(PATH, json=IMAGES | {"embedding_types": types})
    found = answer.json()["embeddings"]
    assert set(types) == set(found)
    vector = await raw(gateway)
    assert np.rint(vector - 128).tolist() == found["int8"][0]
    assert (np.array(found["int8"]) + 128).tolist() == found["uint8"]
    assert np.packbits(vector > 0).tolist() == found["ubinary"][0]
    assert (np.array(found["ubinary"]) - 128).tolist() == found["binary"]
    assert b64encode(np.array(found["float"][0], "<f4").tobytes()).decode() == found["base64"][0]


async def test_what_is_not_calibrated_has_no_int8(gateway: Gateway) -> None:
    """And says so before any work."""
    answer = await gateway.client.post(PATH, json=IMAGES | {"embedding_types": ["float", "int8"]})
    assert (400, True) == (answer.status_code, "not calibrated" in answer.json()["message"])
    assert [] == gateway.server.calls


async def test_images_and_bills_are_described(gateway: Gateway) -> None:
    """Size, format and depth of each image, and how many there were."""
    grey = b64encode(encoded(noise(20, 10).convert("L"), "JPEG")).decode()
    body = {"inputs": [{"content": [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{grey}"}}]}]}
    answer = (await gateway.client.post(PATH, json=body)).json()
    assert [{"width": 20, "height": 10, "format": "jpeg", "bit_depth": 8}] == answer["images"]
    assert {"images": 1} == answer["meta"]["billed_units"]
    assert ("embeddings_by_type", []) == (answer["response_type"], answer["texts"])


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"texts": ["a cat"]}, 400, "images only"),
        ({"inputs": [{"content": [{"type": "text", "text": "a cat"}]}]}, 400, "images only"),
        ({"inputs": [{"content": []}]}, 400, "something else"),
        ({}, 400, "received none"),
        (IMAGES | {"texts": ["a cat"]}, 400, "several"),
        (IMAGES | {"embedding_types": []}, 400, "`embedding_types`"),
        (IMAGES | {"embedding_types": ["float", "int4"]}, 400, "one of float"),
        (IMAGES | {"output_dimension": 9}, 400, "from 1 to 3"),
        (IMAGES | {"output_dimensions": 2}, 400, "Did you mean `output_dimension`"),
        (IMAGES | {"images": ["data:image/png;base64,AAAA"]}, 400, "Image 0: "),
        (IMAGES | {"model": "tay"}, 404, "'toy'"),
    ],
)
async def test_errors_are_messages(gateway: Gateway, body: dict[str, object], status: int, words: str) -> None:
    """Under `message`, and nothing beside it."""
    answer = await gateway.client.post(PATH, json=body)
    assert (status, {"message"}) == (answer.status_code, set(answer.json()))
    assert words in answer.json()["message"]
