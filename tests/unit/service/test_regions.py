"""`crop`: regions of images, over HTTP and gRPC: what each is, costs, is called and is found by."""

import asyncio
import io
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import jsonschema
import numpy as np
import pytest
from PIL import Image

from microtome import preprocessing
from microtome.client.http import embed_request
from microtome.client.images import Cropped
from microtome.client.options import EmbedOptions
from microtome.regions import WHOLE, Region
from microtome.v1 import embedding_pb2 as pb
from service.core import decoding
from service.core.cache_keys import region_digest
from service.http.bodies import BodyLimits
from tests.fakes.model_server import classes_card
from tests.pictures import encoded, noise, png
from tests.unit.service.grpc.conftest import Service, reason_of, service_with
from tests.unit.service.http.conftest import Gateway, gateway_with

# Small as a file: the application holds 40 kB of bodies.
PICTURE = Image.fromarray(np.fromfunction(lambda y, x, c: x * 4 + y * 2 * c, (40, 60, 3)).astype(np.uint8))
PHOTO = encoded(PICTURE)
B64 = b64encode(PHOTO).decode()
LEFT, RIGHT, SMALL = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 0.5, 1.0], [0.25, 0.25, 0.1, 0.1]


def cut(crop: list[float]) -> bytes:
    """The region as a file of its own."""
    x, y, width, height = crop
    return encoded(PICTURE.crop((round(x * 60), round(y * 40), round((x + width) * 60), round((y + height) * 40))))


def text(crop: list[float]) -> str:
    """As a query string has it."""
    return ",".join(map(str, crop))


@pytest.fixture
def decoders() -> Any:
    """Threads to decode in."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
async def gateway(decoders: ThreadPoolExecutor) -> AsyncIterator[Gateway]:
    """The application; a request may have eight images."""
    async with gateway_with(decoders, limits=BodyLimits(20_000, 60_000, 8)) as found:
        yield found


@pytest.fixture
async def service(decoders: ThreadPoolExecutor) -> AsyncIterator[Service]:
    """The gRPC server; a request may have eight images, and a message of a stream as many."""
    async with service_with(
        decoders, max_image_bytes=20_000, max_message_bytes=60_000, max_images=8, stream_images=16
    ) as found:
        yield found


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many regions each file was decoded for, in the order of their decoding."""
    found: list[int] = []
    original = preprocessing.prepared

    def counted(*given: Any, **more: Any) -> Any:
        found.append(len(more["regions"]))
        return original(*given, **more)

    monkeypatch.setattr(decoding, "prepared", counted)
    return found


async def vectors(gateway: Gateway, **body: Any) -> list[list[float]]:
    """Post JSON to /embed and return the vectors."""
    answer = await gateway.client.post("/embed", json=body)
    assert answer.status_code == 200, answer.text
    return [e["vector"] for e in answer.json()["embeddings"]]


async def test_a_region_has_the_vector_of_the_cut_picture(gateway: Gateway, decoded: list[int]) -> None:
    """In every form of body, computed and cached, and the file is decoded once for all of its regions."""
    expected = [(await vectors(gateway, image=b64encode(cut(crop)).decode()))[0] for crop in (LEFT, RIGHT, SMALL)]
    decoded.clear()
    crops = [LEFT, RIGHT, SMALL]
    query = "&".join(f"crop={text(crop)}" for crop in crops)
    answer = await gateway.client.post(f"/embed?{query}", content=PHOTO)
    found = answer.json()["embeddings"]
    assert [e["vector"] for e in found] == expected
    assert [(e["index"], e["crop"], e["cache"]) for e in found] == [(i, c, "miss") for i, c in enumerate(crops)]
    assert decoded == [3]
    ways: list[dict[str, Any]] = [
        {"image": B64, "crop": crops},
        {"image": f"data:image/png;base64,{B64}", "crop": [text(crop) for crop in crops]},
        {"images": [{"b64": B64, "crop": crops}]},
        {"images": [{"b64": B64, "crop": crop} for crop in crops]},
        {"images": [{"b64": B64, "crop": [LEFT, RIGHT]}, {"b64": B64}], "crop": SMALL},
    ]
    for body in ways:
        assert await vectors(gateway, **body) == expected
    form = await gateway.client.post(f"/embed?{query}", files=[("image", PHOTO)])
    assert [(e["vector"], e["cache"]) for e in form.json()["embeddings"]] == [(v, "hit") for v in expected]
    rows = await gateway.client.post(f"/embed?{query}", content=PHOTO, headers={"Accept": "application/x-npy"})
    np.testing.assert_allclose(np.load(io.BytesIO(rows.content)), expected, rtol=1e-6)
    assert decoded == [3]


async def test_a_single_region_is_answered_by_the_response_cache(gateway: Gateway) -> None:
    """The third time it is not even written again, and never mistaken for another region or for the whole."""
    for crop in (LEFT, RIGHT):
        answers = [await gateway.client.post(f"/embed?crop={text(crop)}", content=PHOTO) for _ in range(3)]
        caches = [answer.json()["embeddings"][0]["cache"] for answer in answers]
        assert caches == ["miss", "hit", "hit"]
        assert answers[2].json()["embeddings"][0]["crop"] == crop
    whole = [(await gateway.client.post("/embed", content=PHOTO)).json()["embeddings"][0] for _ in range(3)]
    assert [(e["cache"], "crop" in e) for e in whole] == [("miss", False), ("hit", False), ("hit", False)]
    # All of the image is the image.
    (again,) = (await gateway.client.post("/embed?crop=0,0,1,1", content=PHOTO)).json()["embeddings"]
    assert again == whole[1]


async def test_images_without_regions_go_on_as_ever(gateway: Gateway, decoded: list[int]) -> None:
    """Beside images with regions, an image is answered whole, and the same file is decoded once per request."""
    body = {"images": [{"b64": B64}, {"b64": b64encode(png(3)).decode(), "crop": LEFT}]}
    first, second = (await gateway.client.post("/embed", json=body)).json()["embeddings"]
    assert ("crop" in first, second["crop"]) == (False, LEFT)
    assert decoded == [1, 1]
    assert first["vector"] == (await vectors(gateway, image=B64))[0]


async def test_regions_are_classified(gateway: Gateway) -> None:
    """POST /classify takes the same, and answers with the published schema."""
    gateway.server.current = classes_card()
    answer = await gateway.client.post("/classify", json={"image": B64, "crop": [LEFT, SMALL], "output": ["all"]})
    body = answer.json()
    assert [(p["index"], p["crop"]) for p in body["predictions"]] == [(0, LEFT), (1, SMALL)]
    assert [(e["index"], e["crop"]) for e in body["embeddings"]] == [(0, LEFT), (1, SMALL)]
    api = (await gateway.client.get("/openapi.json")).json()
    schema = api["paths"]["/classify"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(body, schema | {"components": api["components"]})
    alone = await gateway.client.post("/classify", content=cut(SMALL))
    assert alone.json()["predictions"][0]["labels"] == body["predictions"][1]["labels"]
    request = api["paths"]["/embed"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for good in (
        {"image": B64, "crop": LEFT},
        {"image": B64, "crop": [LEFT]},
        {"images": [{"b64": B64, "crop": [LEFT]}]},
    ):
        jsonschema.validate(good, request | {"components": api["components"]})


@pytest.mark.parametrize("crop", ["0,0,1", "0,0,2,1", "a,b,c,d", "0,0,0,1", "nan,0,1,1", ""])
async def test_a_region_that_is_none_is_refused(gateway: Gateway, crop: str) -> None:
    """Of a request's regions with the request."""
    answer = await gateway.client.post(f"/embed?crop={LEFT[0]},0,1,1&crop={crop}", content=PHOTO)
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:microtome:problem:bad-request")
    assert "Expected `crop` to be x, y, width and height in fractions of the image" in answer.json()["detail"]


async def test_an_image_whose_region_is_none_fails_alone(gateway: Gateway) -> None:
    """As any bad image; the others are answered."""
    items = [
        {"b64": B64, "crop": [0, 0, 640, 480]},
        {"b64": B64, "crop": [LEFT, RIGHT]},
        {"b64": "AAAA", "crop": [LEFT, SMALL]},
    ]
    answer = await gateway.client.post("/embed", json={"images": items, "on_error": "skip"})
    body = answer.json()
    assert answer.status_code == 207
    assert [e["index"] for e in body["embeddings"]] == [1, 2]
    assert [(e["index"], e["status"], e.get("crop")) for e in body["errors"]] == [
        (0, 400, None), (3, 422, LEFT), (4, 422, SMALL),
    ]  # fmt: skip
    failed = await gateway.client.post("/embed", json={"images": items})
    assert failed.json()["detail"].startswith("Image 0: Expected `crop` to be x, y, width and height")


async def test_each_region_counts_as_an_image(gateway: Gateway) -> None:
    """For the limit of a request, before anything is decoded; and for the images in flight."""
    crops = [[n / 16, 0, 1 / 16, 1] for n in range(9)]
    query = "&".join(f"crop={text(crop)}" for crop in crops)
    for answer in (
        await gateway.client.post(f"/embed?{query}", content=PHOTO),
        await gateway.client.post("/embed", json={"images": [{"b64": B64, "crop": crops}]}),
        await gateway.client.post(f"/embed?crop={text(LEFT)}&crop={text(RIGHT)}", files=[("i", PHOTO)] * 5),
    ):
        assert (answer.status_code, answer.json()["type"]) == (413, "urn:microtome:problem:too-many-images")
    gateway.server.gate.clear()
    posted = asyncio.create_task(vectors(gateway, image=B64, crop=crops[:3]))
    await gateway.server.called(3)
    assert gateway.metrics.registry.get_sample_value("microtome_images_in_flight") == 3
    gateway.server.gate.set()
    await posted
    assert gateway.metrics.registry.get_sample_value("microtome_images_in_flight") == 0


async def test_an_address_with_several_regions_is_fetched_once(
    decoders: ThreadPoolExecutor, decoded: list[int]
) -> None:
    """And decoded once."""
    fetched: list[str] = []

    class Fetcher:
        async def fetch(self, address: str, *, max_bytes: int) -> bytes:
            fetched.append(f"{address} {max_bytes}")
            return PHOTO

    async with gateway_with(decoders, limits=BodyLimits(20_000, 30_000, 8), fetcher=Fetcher()) as gateway:
        found = await vectors(gateway, images=[{"url": "https://a/1.png", "crop": [LEFT, RIGHT]}])
        assert found == await vectors(gateway, image=B64, crop=[LEFT, RIGHT])
    assert (fetched, decoded) == (["https://a/1.png 20000"], [2])


async def test_callers_of_the_same_region_share_the_work(gateway: Gateway, decoded: list[int]) -> None:
    """While one computes two regions, another who wants one of them waits for it; a third of its own is decoded."""
    gateway.server.gate.clear()
    posts = [
        asyncio.create_task(vectors(gateway, image=B64, crop=crops)) for crops in ([LEFT, RIGHT], [RIGHT], [SMALL])
    ]
    await gateway.server.called(3)
    gateway.server.gate.set()
    both, right, _ = await asyncio.gather(*posts)
    assert both[1] == right[0]
    assert sorted(decoded) == [1, 2]


async def test_a_caller_who_leaves_ends_the_decoding_of_all_regions(decoders: ThreadPoolExecutor) -> None:
    """Not before the last one who waits has gone."""
    entered, ended = asyncio.Event(), asyncio.Event()

    class Slow:
        async def parts(self, *_: Any) -> list[Any]:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return []

    parts = decoding.Parts(Slow(), PHOTO, None, [Region(*LEFT), Region(*RIGHT)])  # type: ignore[arg-type]  # stand-ins
    waiting = [asyncio.create_task(parts.pixels(Region(*crop))) for crop in (LEFT, RIGHT)]
    await entered.wait()
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    assert not ended.is_set()
    waiting[1].cancel()
    await asyncio.wait([waiting[1]])
    await ended.wait()


def test_a_key_without_a_region_is_as_it_was() -> None:
    """And each region has its own."""
    assert region_digest("ab" * 32, WHOLE) == "ab" * 32
    assert len({region_digest("ab" * 32, Region(*crop)) for crop in (LEFT, RIGHT, SMALL)}) == 3


def image(*crops: list[float], data: bytes = PHOTO) -> pb.Image:
    """A message with regions."""
    named = [pb.Crop(x=x, y=y, width=width, height=height) for x, y, width, height in crops]
    return pb.Image(data=data, crops=named)


def numbers(result: pb.ImageResult) -> list[float]:
    """The vector of a result."""
    return [float(n) for n in np.frombuffer(result.embeddings[0].data, "<f4")]


def crop_of(result: pb.ImageResult) -> list[float] | None:
    """The region of a result, if it names one."""
    crop = result.crop
    return [crop.x, crop.y, crop.width, crop.height] if result.HasField("crop") else None


async def test_embed_takes_regions(service: Service, decoded: list[int]) -> None:
    """The vectors of cut pictures, a result for each region, from one decode; the second time from the cache."""
    expected = [
        numbers(result)
        for result in (
            await service.stub.Embed(pb.EmbedRequest(images=[pb.Image(data=cut(c)) for c in (LEFT, SMALL)]))
        ).results
    ]
    decoded.clear()
    request = pb.EmbedRequest(images=[image(LEFT, SMALL), pb.Image(data=png(3))])
    for _ in range(2):
        answer = await service.stub.Embed(request)
        assert [crop_of(result) for result in answer.results] == [LEFT, SMALL, None]
        assert [numbers(result) for result in answer.results[:2]] == expected
    assert {result.embeddings[0].cache for result in answer.results} == {pb.CACHE_RESULT_HIT}
    assert sorted(decoded) == [1, 2]


async def test_a_region_of_a_message_that_is_none_fails_alone(service: Service) -> None:
    """And too many of them fail the call."""
    request = pb.EmbedRequest(
        options=pb.EmbedOptions(on_error=pb.ON_ERROR_SKIP), images=[image(LEFT, [0, 0, 2, 1]), image(RIGHT)]
    )
    good, bad, other = (await service.stub.Embed(request)).results
    assert (crop_of(good), reason_of(bad.error), crop_of(other)) == (LEFT, "BAD_REQUEST", RIGHT)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Embed(pb.EmbedRequest(images=[image(*[LEFT] * 5), image(*[RIGHT] * 4)]))
    assert "at most 8 images a request, received 9" in (caught.value.details() or "")


async def test_a_stream_answers_each_region_under_the_images_id(service: Service, decoded: list[int]) -> None:
    """Each with its region; from memory the second time; a bad image and a bad region fail all of an image's."""

    async def answered(*messages: pb.EmbedStreamRequest) -> list[tuple[str, list[float] | None, Any]]:
        found: list[tuple[str, list[float] | None, Any]] = []
        async for answer in service.stub.EmbedStream(iter(messages)):
            result = answer.result
            said = reason_of(result.error) if result.HasField("error") else numbers(result)
            found.append((answer.id, crop_of(result), said))
        return sorted(found, key=lambda each: (each[0], each[1] or []))

    unary = [
        numbers(result) for result in (await service.stub.Embed(pb.EmbedRequest(images=[image(LEFT, SMALL)]))).results
    ]
    expected = [("a", LEFT, unary[0]), ("a", SMALL, unary[1])]
    assert await answered(pb.EmbedStreamRequest(id="a", image=image(LEFT, SMALL))) == expected
    decoded.clear()
    other = encoded(noise(50, 50, 9))
    found = await answered(
        pb.EmbedStreamRequest(id="a", image=image(LEFT, SMALL)),
        pb.EmbedStreamRequest(id="b", image=image(LEFT, RIGHT, data=other)),
        pb.EmbedStreamRequest(id="c", image=image(LEFT, RIGHT, data=b"no image")),
        pb.EmbedStreamRequest(id="d", image=image(LEFT, [0, 0, 0, 0])),
        pb.EmbedStreamRequest(id="e", image=pb.Image(data=PHOTO)),
    )
    assert found[:2] == expected
    assert [(name, crop) for name, crop, _ in found[2:4]] == [("b", LEFT), ("b", RIGHT)]
    assert found[4:6] == [("c", crop, "NOT_AN_IMAGE") for crop in (LEFT, RIGHT)]
    assert found[6:8] == [("d", crop, "BAD_REQUEST") for crop in (None, LEFT)]
    assert (found[8][:2], len(found)) == (("e", None), 9)
    # Those of the bad image are its two regions, too.
    assert sorted(decoded) == [1, 2, 2]


def test_the_client_sends_a_file_once() -> None:
    """As it is with the regions in the query string, or in JSON beside other files."""
    regions = [Cropped(PHOTO, crop) for crop in (LEFT, SMALL)]
    alone = embed_request(regions, EmbedOptions(), 1.0)
    assert alone["content"] is PHOTO
    assert alone["params"]["crop"] == ["0.0,0.0,0.5,1.0", "0.25,0.25,0.1,0.1"]
    both = embed_request([*regions, png(3), Cropped(png(4), RIGHT)], EmbedOptions(), 1.0)
    request = httpx.Request(both["method"], "http://gateway/embed", json=both["json"])
    items = json.loads(request.content)["images"]
    assert [item.get("crop") for item in items] == [[LEFT, SMALL], None, [RIGHT]]
