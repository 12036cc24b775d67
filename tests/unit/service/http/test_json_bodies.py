"""JSON bodies: base64, data URIs, addresses; options beside them; good images and bad ones in one request."""

import json
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.errors import BadRequest, RequestRejected, UrlNotFetched
from service.core.remote_images import Url
from service.http import bodies
from service.http.bodies import BodyLimits, read_json
from tests.pictures import png
from tests.unit.service.http.conftest import Gateway, gateway_with
from tests.unit.service.http.test_embed import problem
from tests.unit.service.http.test_parameters import JSON

B64 = b64encode(png()).decode()


@pytest.mark.parametrize(
    "body",
    [
        {"image": B64},
        {"image": f"data:image/png;base64,{B64}"},
        {"images": [{"b64": B64}]},
        {"images": [{"b64": "\n".join(B64[i : i + 76] for i in range(0, len(B64), 76))}]},
        {"images": [{"data_uri": f"DATA:;base64,{B64}"}]},
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "application/vnd.api+json", None])
async def test_json_is_the_same_image(gateway: Gateway, body: dict[str, object], content_type: str | None) -> None:
    """However an image is written in JSON, and whatever the Content-Type, the vector is that of its bytes."""
    raw = (await gateway.client.post("/embed", content=png())).json()["embeddings"][0]
    headers = {"Content-Type": content_type} if content_type else {}
    answer = await gateway.client.post("/embed", content=json.dumps(body), headers=headers)
    assert answer.status_code == 200, answer.text
    assert ("hit", raw["vector"]) == tuple(answer.json()["embeddings"][0][k] for k in ("cache", "vector"))


async def test_an_image_that_says_it_is_json_is_an_image(gateway: Gateway) -> None:
    """Bytes are sniffed, also against a Content-Type of JSON."""
    answer = await gateway.client.post("/embed", content=png(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{", "no JSON"),
        ('{"image": 1}', "base64 or data URI"),
        ('{"images": []}', "empty list"),
        ("{}", "neither"),
        ('{"image": "", "images": [{}]}', "not both"),
        ('{"imgae": "x"}', "Did you mean `image`"),
        ('{"image": "x", "normalise": true}', "Did you mean `normalize`"),
        ('{"image": "*"}', "Image 0: Expected base64"),
        ('{"image": "data:image/png,abc"}', "Image 0: Expected data:image"),
        ('{"images": [{"b64": "", "url": ""}]}', "Image 0: Expected an object with one of"),
        ('{"images": [{"base64": ""}]}', "one of b64, data_uri, url"),
    ],
)
async def test_wrong_json_says_what_was_expected(gateway: Gateway, body: str, words: str) -> None:
    """Each is a 400 in words that help."""
    answer = await gateway.client.post("/embed", content=body, headers={"Content-Type": "application/json"})
    assert (400, "bad-request") == problem(answer)
    assert words in answer.json()["detail"]
    assert [] == gateway.server.calls


async def test_json_obeys_the_limits(gateway: Gateway) -> None:
    """Too many images, and an image of too many bytes, are refused like in the other bodies."""
    four = {"images": [{"b64": "AAAA"}] * 4}
    assert (413, "too-many-images") == problem(await gateway.client.post("/embed", json=four))
    large = {"image": b64encode(b"\xff" * 5001).decode()}
    assert (413, "image-too-large") == problem(await gateway.client.post("/embed", json=large))


async def test_addresses_are_refused_unless_switched_on(gateway: Gateway) -> None:
    """By default no byte is fetched, and the caller learns what to do."""
    answer = await gateway.client.post("/embed", json={"images": [{"url": "http://127.0.0.1/x.png"}]})
    assert (403, "url-not-allowed") == problem(answer)


class Shelf:
    """Fetches from a dictionary."""

    def __init__(self, **images: bytes) -> None:
        self.images = images
        self.asked: list[tuple[str, int]] = []

    async def fetch(self, address: str, *, max_bytes: int) -> bytes:
        """Return what lies there."""
        self.asked.append((address, max_bytes))
        if address not in self.images:
            raise UrlNotFetched(f"Nothing lies at {address}.")
        return self.images[address]


async def test_addresses_are_images_like_others(decoders: ThreadPoolExecutor) -> None:
    """Fetched ones stand at their places beside those that were sent; each has its share of the bytes."""
    shelf = Shelf(a=png(1))
    async with gateway_with(decoders, fetcher=shelf) as gateway:
        images = [{"url": "a"}, {"b64": B64}, {"url": "b"}]
        answer = await gateway.client.post("/embed", json={"images": images, "on_error": "skip"})
        assert [0, 1] == [e["index"] for e in answer.json()["embeddings"]]
        assert ["Image 2: Nothing lies at b."] == [e["detail"] for e in answer.json()["errors"]]
        assert [("a", 4_500), ("b", 4_500)] == shelf.asked
        assert "fetch;dur=" in answer.headers["server-timing"]
        failed = await gateway.client.post("/embed", json={"images": images})
        assert (422, "url-not-fetched") == problem(failed)


async def test_skipping_answers_the_good_and_names_the_bad(gateway: Gateway) -> None:
    """207 with vectors at their places, and for each bad image its own problem, whichever step found it."""
    images = [{"b64": "*"}, {"b64": B64}, {"b64": b64encode(b"GIF but no").decode()}]
    answer = await gateway.client.post("/embed", json={"images": images, "on_error": "skip"})
    body = answer.json()
    assert 207 == answer.status_code
    assert [1] == [e["index"] for e in body["embeddings"]]
    assert [(0, 400), (2, 422)] == [(e["index"], e["status"]) for e in body["errors"]]
    assert ["Image 0: ", "Image 2: "] == [e["detail"][:9] for e in body["errors"]]
    assert "urn:microtome:problem:not-an-image" == body["errors"][1]["type"]


async def test_when_no_image_is_good_the_answer_is_422(gateway: Gateway) -> None:
    """Nothing but bad images is no success, skipping or not; the problem lists each."""
    for images in ([b"GIF but no"] * 2, [b"GIF but no"]):
        answer = await gateway.client.post("/embed?on_error=skip", files=[("image", image) for image in images])
        assert (422, "no-image-embedded") == problem(answer)
        assert list(range(len(images))) == [e["index"] for e in answer.json()["errors"]]
    answer = await gateway.client.post("/embed", json={"image": "*", "on_error": "skip"})
    assert (422, "no-image-embedded") == problem(answer)


@given(JSON, st.sampled_from(["image", "images", "model", "version"]))
def test_any_json_is_read_or_refused(value: object, name: str) -> None:
    """Whatever stands in a body, each image is bytes, an address or an error, or the whole is refused."""
    for body in (json.dumps(value), json.dumps({name: value}), json.dumps({"images": [value]})):
        try:
            images = read_json(body.encode(), limits=BodyLimits(100, 1000, 3)).images
        except RequestRejected:
            continue
        assert all(isinstance(image, bytes | Url | BadRequest) for image in images)


@pytest.mark.parametrize("said", [True, False])
async def test_json_is_counted_as_what_it_takes(gateway: Gateway, said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times its bytes while it is read, also where no Content-Type says that it is JSON."""
    held = []

    def noted(*given: Any, **more: Any) -> Any:
        held.append(gateway.metrics.registry.get_sample_value("microtome_body_bytes_in_flight"))
        return read_json(*given, **more)

    monkeypatch.setattr(bodies, "read_json", noted)
    body = json.dumps({"image": B64}).encode()
    headers = {"Content-Type": "application/json"} if said else {}
    assert 200 == (await gateway.client.post("/embed", content=body, headers=headers)).status_code
    assert [3 * len(body)] == held
    assert 0 == gateway.metrics.registry.get_sample_value("microtome_body_bytes_in_flight")
