"""The Open Inference Protocol over REST, as JSON and with tensors as bytes. Its real clients: tests/clients."""

import io
import json
import struct
from base64 import b64encode
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.fakes.model_server import SIZE, classes_card
from tests.pictures import solid
from tests.unit.service.http.conftest import Gateway

INFER = "/v2/models/toy/infer"


def grey(level: int) -> bytes:
    """A picture whose every pixel has this level, so that the vector can be told."""
    out = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (level,) * 3).save(out, "PNG")
    return out.getvalue()


def elements(*images: bytes) -> bytes:
    """A BYTES tensor's data."""
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


def binary(data: bytes, count: int, **more: Any) -> tuple[bytes, dict[str, str]]:
    """A request with its tensor after the JSON: body and headers."""
    entry = {"name": "image", "datatype": "BYTES", "shape": [count], "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [entry], **more}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head))}


def texts(*images: bytes, **more: Any) -> dict[str, Any]:
    """The same as JSON alone."""
    data = [b64encode(image).decode() for image in images]
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": data}], **more}


def output(answer: httpx.Response, number: int = 0) -> Any:
    """One output of a JSON answer."""
    assert 200 == answer.status_code, answer.text
    return answer.json()["outputs"][number]


async def test_json_in_json_out(gateway: Gateway) -> None:
    """A vector for each image, in their order; the id comes back; model and version are told."""
    answer = await gateway.client.post(INFER, json=texts(grey(10), grey(200), id="mine"))
    told = answer.json()
    assert ("toy", "1", "mine") == (told["model_name"], told["model_version"], told["id"])
    assert ("mean", "FP32", [2, 3]) == tuple(output(answer)[key] for key in ("name", "datatype", "shape"))
    assert [10.0] * 3 + [200.0] * 3 == output(answer)["data"]


async def test_bytes_in_bytes_out(gateway: Gateway) -> None:
    """The answer is JSON, then the tensor's bytes, whose sizes the JSON tells."""
    body, headers = binary(elements(grey(10), grey(200)), 2, parameters={"binary_data_output": True})
    answer = await gateway.client.post(INFER, content=body, headers=headers)
    length = int(answer.headers["inference-header-content-length"])
    (entry,) = json.loads(answer.content[:length])["outputs"]
    assert {"binary_data_size": 24} == entry["parameters"]
    vectors = np.frombuffer(answer.content[length:], "<f4").reshape(entry["shape"])
    assert [[10.0] * 3, [200.0] * 3] == vectors.tolist()


async def test_outputs_are_chosen_by_name_each_in_its_form(gateway: Gateway) -> None:
    """Two layers in one request, one as bytes and one as numbers; `embedding` is the default one."""
    asked = [{"name": "corner", "parameters": {"binary_data": True}}, {"name": "mean"}]
    body, headers = binary(elements(grey(10)), 1, outputs=asked)
    answer = await gateway.client.post(INFER, content=body, headers=headers)
    length = int(answer.headers["inference-header-content-length"])
    corner, mean = json.loads(answer.content[:length])["outputs"]
    assert ("corner", [1, 4], "mean", [10.0] * 3) == (corner["name"], corner["shape"], mean["name"], mean["data"])
    assert [10.0, 10.0, 10.0, 1.0] == np.frombuffer(answer.content[length:], "<f4").tolist()
    named = await gateway.client.post(INFER, json=texts(grey(10), outputs=[{"name": "embedding"}]))
    assert ("embedding", [10.0] * 3) == (output(named)["name"], output(named)["data"])


async def test_pixels_are_images_too(gateway: Gateway) -> None:
    """UINT8 [N, H, W, C], as JSON and as bytes: what a PNG of the same pixels gives."""
    pixels = np.full((2, SIZE, SIZE, 3), 9, np.uint8)
    pixels[1] = 90
    entry: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape)}
    written = await gateway.client.post(INFER, json={"inputs": [{**entry, "data": pixels.ravel().tolist()}]})
    assert [9.0] * 3 + [90.0] * 3 == output(written)["data"]
    entry["parameters"] = {"binary_data_size": pixels.nbytes}
    head = json.dumps({"inputs": [entry]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    raw = await gateway.client.post(INFER, content=head + pixels.tobytes(), headers=headers)
    assert output(written)["data"] == output(raw)["data"]


async def test_a_bare_image_is_a_body(gateway: Gateway) -> None:
    """With the header saying that there is no JSON at all."""
    answer = await gateway.client.post(INFER, content=grey(10), headers={"Inference-Header-Content-Length": "0"})
    assert [10.0] * 3 == output(answer)["data"]


async def test_our_parameters_shape_the_vectors(gateway: Gateway) -> None:
    """Cut, then normalised, then in half precision."""
    asked = {"normalize": True, "dimensions": 2, "datatype": "FP16"}
    answer = await gateway.client.post(INFER, json=texts(grey(10), parameters=asked))
    assert ("FP16", [1, 2]) == (output(answer)["datatype"], output(answer)["shape"])
    np.testing.assert_allclose(output(answer)["data"], [0.5**0.5] * 2, rtol=1e-3)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"inputs": []}, "Expected one input"),
        ({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["AAAA"]}]}, "Received: 'x'"),
        ({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1], "data": [1.0]}]}, "Expected `data`"),
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": ["AAAA"]}]}, "2 elements"),
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1], "data": ["AAAA"]}]}, "`shape`"),
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [9], "data": ["AAAA"] * 9}]}, "at most 3 images"),
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["%"]}]}, "base64"),
        (texts(grey(1), parameters={"normalise": True}), "normalize"),
        (texts(grey(1), parameters={"dimensions": 99}), "from 1 to 3"),
        (texts(grey(1), parameters={"datatype": "INT8"}), "not calibrated"),
        (texts(grey(1), parameters={"datatype": "FP64"}), "FP32, FP16, INT8"),
        (texts(b"no image"), "Image 0: Expected an image"),
        ({"input": []}, "inputs"),
        ([], "JSON object"),
    ],
)
async def test_what_is_wrong_is_one_sentence(gateway: Gateway, body: object, words: str) -> None:
    """400 and `error`; nothing has reached the model."""
    answer = await gateway.client.post(INFER, json=body)
    assert 400 == answer.status_code
    assert words in answer.json()["error"]
    assert [] == gateway.server.calls


@pytest.mark.parametrize(("length", "data"), [("99999", b""), ("x", b""), (None, b"left over")])
async def test_lengths_that_do_not_add_up_are_refused(gateway: Gateway, length: str | None, data: bytes) -> None:
    """The header's, and the tensors' own."""
    body, headers = binary(elements(grey(1)), 1)
    headers = {"Inference-Header-Content-Length": length} if length else headers
    answer = await gateway.client.post(INFER, content=body + data, headers=headers)
    assert 400 == answer.status_code
    assert "Expected" in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/nix", 404),
        ("/v2/models/nix/ready", 404),
        ("/v2/models/toy/versions/9", 404),
        ("/v2/models/toy/versions/x", 400),
        ("/v2/nix/nix", 404),
    ],
)
async def test_what_there_is_not(gateway: Gateway, path: str, status: int) -> None:
    """Models and versions that are not served, in the protocol's own shape below its paths."""
    assert status == (await gateway.client.get(path)).status_code


async def test_server_and_models_describe_themselves(gateway: Gateway) -> None:
    """As tritonclient and kserve read it."""
    assert "microtome" == (await gateway.client.get("/v2")).json()["name"]
    assert {"live": True} == (await gateway.client.get("/v2/health/live")).json()
    assert {"live": True, "ready": True} == (await gateway.client.get("/v2/health/ready")).json()
    assert {"models": ["toy"]} == (await gateway.client.get("/v2/models")).json()
    assert {"name": "toy", "ready": True} == (await gateway.client.get("/v2/models/toy/versions/1/ready")).json()
    told = (await gateway.client.get("/v2/models/toy")).json()
    assert [{"name": "image", "datatype": "BYTES", "shape": [-1]}] == told["inputs"]
    assert [("mean", [-1, 3]), ("corner", [-1, 4])] == [(o["name"], o["shape"]) for o in told["outputs"]]


def pixels(shape: list[int], data: object) -> dict[str, object]:
    """A request of pixels in JSON."""
    return {"inputs": [{"name": "image", "datatype": "UINT8", "shape": shape, "data": data}]}


@pytest.mark.parametrize("shape", [[1, *[2**63] * 300], [1, 2**63], [1] * 9, [-1], [True], [1.5], [1, 2**31 + 1]])
async def test_shapes_are_bounded_before_they_are_multiplied(gateway: Gateway, shape: list[int]) -> None:
    """200,000 dimensions of 2^63 held the event loop for 115 s."""
    request = texts(grey(7))
    request["inputs"][0]["shape"] = shape
    for body in (request, pixels(shape, [1])):
        answer = await gateway.client.post("/v2/models/toy/infer", json=body)
        assert (400, True) == (answer.status_code, len(answer.text) < 400)
        assert "dimensions" in answer.text or "to be sizes" in answer.text


@pytest.mark.parametrize(
    "data", [[1, [2, 3]], [[1, 2], 3], [[[[[1]]]]], [1.5], ["1"], [256], [-1], [None], {}, [{}], "12", [[]], [[[]], 1]]
)
async def test_pixels_have_one_depth_and_whole_numbers(gateway: Gateway, data: object) -> None:
    """Each is a sentence; a fraction was cut before."""
    answer = await gateway.client.post("/v2/models/toy/infer", json=pixels([1, 1, 1, 3], data))
    assert (400, True) == (answer.status_code, "Expected" in answer.json()["error"]), answer.text


@pytest.mark.parametrize("digits", ["9" * 5000, "9" * 20, "0" * 5000 + "1", "0", "-1", "1.0"])
async def test_numbers_of_many_digits_are_refused(gateway: Gateway, digits: str) -> None:
    """In a path and in a header: they were an unexpected error."""
    for path in (f"/v2/models/toy/versions/{digits}", f"/v2/models/toy/versions/{digits}/ready"):
        assert 400 == (await gateway.client.get(path)).status_code
    infer = "/v2/models/toy/versions/{}/infer"
    assert 400 == (await gateway.client.post(infer.format(digits), json=texts(grey(7)))).status_code
    if digits != "0":
        headers = {"Inference-Header-Content-Length": digits}
        assert 400 == (await gateway.client.post(infer.format(1), content=b"{}", headers=headers)).status_code


async def test_images_in_json_have_errors_of_their_own(gateway: Gateway) -> None:
    """As in the other contracts; and the first beyond the limit ends the request."""
    answer = await gateway.client.post("/v2/models/toy/infer", json=texts(grey(7), b"no image"))
    assert (400, True) == (answer.status_code, answer.json()["error"].startswith("Image 1: "))
    request = texts(grey(7))
    request["inputs"][0]["data"] = ["*"]
    answer = await gateway.client.post("/v2/models/toy/infer", json=request)
    assert "Image 0: Expected base64" in answer.json()["error"]
    request["inputs"][0].update(data=["AAAA"] * 4, shape=[4])
    assert "at most 3 images" in (await gateway.client.post("/v2/models/toy/infer", json=request)).json()["error"]


async def test_classification_answers_strings(gateway: Gateway) -> None:
    """Triton's extension: score, index and label of the best classes, in JSON or as bytes, beside other outputs."""
    gateway.server.current = classes_card()
    wanted: list[dict[str, Any]] = [{"name": "mean", "parameters": {"classification": 2}}, {"name": "corner"}]
    picture = solid((10, 20, 30))
    answer = await gateway.client.post(INFER, json=texts(picture, outputs=wanted))
    assert ("BYTES", [1, 2]) == (output(answer)["datatype"], output(answer)["shape"])
    assert ["0.999955:2:blue", "0.000045:1:green"] == output(answer)["data"]
    assert "FP32" == output(answer, 1)["datatype"]
    wanted[0]["parameters"] = {"classification": 9, "binary_data": True}
    body, headers = binary(elements(picture), 1, outputs=wanted[:1])
    raw = await gateway.client.post(INFER, content=body, headers=headers)
    assert elements(b"0.999955:2:blue", b"0.000045:1:green", b"0.000000:0:red") in raw.content


@pytest.mark.parametrize(
    ("name", "count"), [("corner", 2), ("mean", 0), ("mean", "2")], ids=["no classes", "zero", "text"]
)
async def test_impossible_classifications_are_refused(gateway: Gateway, name: str, count: object) -> None:
    """Of an output without classes, or of no number of them."""
    gateway.server.current = classes_card()
    wanted = [{"name": name, "parameters": {"classification": count}}]
    answer = await gateway.client.post(INFER, json=texts(grey(3), outputs=wanted))
    assert (400, True) == (answer.status_code, "classification" in answer.json()["error"])
