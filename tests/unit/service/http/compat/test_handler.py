"""What all dialects share: limits, keys, switches, and errors in the words of the caller's system."""

import asyncio
import json
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.responses import Response

from microtome.errors import RequestRejected, ServiceError, slug
from service.auth import Keyring, read_keys
from service.http.compat import ALL, spoken
from service.http.compat.handler import Dialect
from service.http.problems import STATUS, ErrorWriters, Failure
from service.http.problems import problem as our_own
from tests.pictures import png
from tests.unit.service.http.conftest import Gateway, gateway_with
from tests.unit.service.http.test_embed import problem
from tests.unit.service.http.test_json_bodies import Shelf
from tests.unit.service.test_auth import line

PATH = "/v1/embeddings"


def body(*greys: int) -> dict[str, object]:
    """A request of a dialect."""
    return {"input": [{"image": b64encode(png(grey)).decode()} for grey in greys or (1,)]}


@pytest.mark.parametrize("setting", ["openai", " openai , openai "])
def test_dialects_are_chosen_by_name(setting: str) -> None:
    """By their names, each once; `all` and `none` are names of sets."""
    assert ["openai"] == [dialect.name for dialect in spoken(setting)]
    assert (ALL, ()) == (spoken("all"), spoken("none"))


@pytest.mark.parametrize("setting", ["", "openai,klingon", "ALL"])
def test_a_dialect_that_there_is_not_is_named(setting: str) -> None:
    """The message lists those that there are."""
    with pytest.raises(ValueError, match="openai"):
        spoken(setting)


async def test_a_dialect_switched_off_is_not_there(decoders: ThreadPoolExecutor) -> None:
    """Its paths are as unknown as any other, in our own words."""
    async with gateway_with(decoders, dialects="none") as gateway:
        assert (404, "not-found") == problem(await gateway.client.post(PATH, json=body()))
        document = (await gateway.client.get("/openapi.json")).json()
        assert {"/v1/embeddings", "/v2/embed", "/v1/multimodalembeddings"}.isdisjoint(document["paths"])


async def test_before_any_route_errors_are_in_the_dialects_words(decoders: ThreadPoolExecutor) -> None:
    """No key, no such path, no such method: the middlewares' answers too are what its clients can read."""
    async with gateway_with(decoders, keyring=Keyring(read_keys([line("me", "s3cret")]))) as gateway:
        stranger = await gateway.client.post(PATH, json=body())
        assert (401, "Bearer") == (stranger.status_code, stranger.headers["www-authenticate"])
        assert "invalid_api_key" == stranger.json()["error"]["code"]
        me = {"Authorization": "Bearer s3cret"}
        for method, path, status in (("POST", "/v1/chat/completions", 404), ("GET", PATH, 405)):
            answer = await gateway.client.request(method, path, headers=me)
            assert status == answer.status_code
            assert path in answer.json()["error"]["message"]
        assert 200 == (await gateway.client.post(PATH, json=body(), headers=me)).status_code


async def test_a_defect_is_told_in_the_dialects_words(gateway: Gateway) -> None:
    """With a 500 of its shape, and nothing of our insides."""
    gateway.server.failure = RuntimeError("secret detail")  # type: ignore[assignment]  # a defect
    answer = await gateway.client.post(PATH, json=body())
    assert (500, "internal_error") == (answer.status_code, answer.json()["error"]["code"])
    assert "secret" not in answer.text


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", None])
async def test_the_content_type_does_not_matter(gateway: Gateway, content_type: str | None) -> None:
    """Some clients send none."""
    raw = json.dumps(body())
    headers = {"Content-Type": content_type} if content_type else {}
    assert 200 == (await gateway.client.post(PATH, content=raw, headers=headers)).status_code


async def test_limits_are_those_of_our_own_route(gateway: Gateway) -> None:
    """Images of a request, bytes of an image, bytes of a body; each named."""
    for request, words in (
        ({"input": [{"image": "AAAA"}] * 4}, "at most 3 images"),
        ({"input": [{"image": b64encode(b"\xff" * 5001).decode()}]}, "5000 bytes an image"),
        ({"input": [{"image": "A" * 9001}]}, "9000 bytes a request"),
    ):
        answer = await gateway.client.post(PATH, json=request)
        assert 400 == answer.status_code
        assert words in answer.json()["detail"]
    assert [] == gateway.server.calls


async def test_bodies_are_held_in_the_budget_and_given_back(gateway: Gateway) -> None:
    """While requests are in flight others get 429 with Retry-After; afterwards they are served."""
    gateway.server.gate.clear()
    small = [asyncio.create_task(gateway.client.post(PATH, json=body(grey))) for grey in range(4)]
    await gateway.server.called(1)
    refused = await gateway.client.post(PATH, json=body(9))
    assert (429, "1", "true") == (refused.status_code, *(refused.headers[n] for n in ("retry-after", "x-should-retry")))
    gateway.server.gate.set()
    assert [200] * 4 == [answer.status_code for answer in await asyncio.gather(*small)]
    assert 200 == (await gateway.client.post(PATH, json=body(9))).status_code


async def test_a_caller_may_shorten_the_deadline(gateway: Gateway) -> None:
    """X-Request-Timeout holds here too, and the answer says when to come again."""
    gateway.server.gate.clear()
    answer = await gateway.client.post(PATH, json=body(), headers={"X-Request-Timeout": "0.05"})
    assert (504, "deadline_exceeded") == (answer.status_code, answer.json()["error"]["code"])


async def test_addresses_are_fetched_by_the_rules_of_the_core(decoders: ThreadPoolExecutor) -> None:
    """Where fetching is on, an address is an image like any other; where it is off, the error says so."""
    here, nowhere = "https://photos.test/a", "https://photos.test/b"
    async with gateway_with(decoders, fetcher=Shelf(**{here: png(1)})) as gateway:
        sent = (await gateway.client.post(PATH, json=body(1))).json()["data"][0]["embedding"]
        fetched = (await gateway.client.post(PATH, json={"input": here})).json()["data"][0]["embedding"]
        assert sent == fetched
        answer = await gateway.client.post(PATH, json={"input": [here, nowhere]})
        assert (400, "url_not_fetched") == (answer.status_code, answer.json()["error"]["code"])
        assert answer.json()["detail"].startswith("Image 1: ")
    async with gateway_with(decoders) as gateway:
        answer = await gateway.client.post(PATH, json={"input": here})
        assert (400, "url_not_allowed") == (answer.status_code, answer.json()["error"]["code"])


async def test_the_metrics_know_the_route(gateway: Gateway) -> None:
    """By its template, and the model that answered."""
    await gateway.client.post(PATH, json=body())
    text = (await gateway.client.get("/metrics")).text
    assert f'microtome_requests_total{{route="{PATH}",status="200"}} 1.0' in text


def test_the_longest_path_words_an_error() -> None:
    """An exact path beats the one above it, and what is below nothing has no words but ours."""

    def one(failure: Failure) -> Response:
        return Response(failure.detail)

    def other(failure: Failure) -> Response:
        return Response(failure.kind)

    writers = ErrorWriters([("/v2/", one), ("/v2/embed", other), ("/v2/models/", other)])
    found = [writers.at(path) for path in ("/v2/nix", "/v2/embed", "/v2/models/m", "/v2", "/embed")]
    assert [one, other, other, our_own, our_own] == found


@pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("leaf", STATUS, ids=lambda leaf: leaf.__name__)
def test_every_dialect_words_every_error(dialect: Dialect, leaf: type[ServiceError]) -> None:
    """As JSON with our sentence in it, an error's status, and the headers that say when to come again."""
    failure = Failure(STATUS[leaf], slug(leaf), "Our sentence.", {"Retry-After": "3"}, leaf.__new__(leaf))
    answer = dialect.write_error(failure)
    # Below /models/ is our own GET too, so errors there are problems with one member more.
    kind = "application/problem+json" if dialect.name == "huggingface" else "application/json"
    assert kind == answer.media_type
    assert "Our sentence." in json.dumps(json.loads(bytes(answer.body)))
    assert (True, "3") == (answer.status_code >= 400, answer.headers["retry-after"])
    # What may succeed later is no client's fault, and the other way round.
    assert issubclass(leaf, RequestRejected) == (answer.status_code < 500 and answer.status_code != 429)
