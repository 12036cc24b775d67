"""POST /embed: every form of body, every option, every way to be wrong."""

from collections.abc import AsyncIterator

import httpx
import jsonschema
import pytest

from microtome.errors import (
    DeadlineExceeded,
    ModelNotReady,
    ModelServerDown,
    ModelServerFault,
    Overloaded,
    ServiceError,
)
from tests.pictures import encoded, noise, png
from tests.unit.service.http.conftest import Gateway


def problem(answer: httpx.Response) -> tuple[int, str]:
    """Return an error's status and the last part of its type, once its form is right."""
    body = answer.json()
    assert "application/problem+json" == answer.headers["content-type"]
    assert {"type", "title", "status", "detail"} <= set(body)
    assert body["status"] == answer.status_code
    return answer.status_code, body["type"].removeprefix("urn:microtome:problem:")


@pytest.mark.parametrize("content_type", ["image/png", "application/x-www-form-urlencoded", "image/jpeg", None])
async def test_a_raw_body_is_one_image_whatever_its_content_type(gateway: Gateway, content_type: str | None) -> None:
    """Bytes are sniffed: the Content-Type may be wrong, curl's default, or missing."""
    headers = {"Content-Type": content_type} if content_type else {}
    answer = await gateway.client.post("/embed", content=png(), headers=headers)
    body = answer.json()
    assert answer.status_code == 200, body
    assert {"model", "version", "fingerprint", "embeddings", "errors"} == set(body)
    (embedding,) = body["embeddings"]
    assert (0, "mean", 3, "miss") == tuple(embedding[k] for k in ("index", "output", "dim", "cache"))
    assert len(embedding["vector"]) == 3


async def test_a_form_has_an_image_in_each_file_part(gateway: Gateway) -> None:
    """Several file parts, whatever their names, are answered in their order, by image and then by output."""
    files = [("image", png(1)), ("image", png(2)), ("other", png(1))]
    answer = await gateway.client.post("/embed?output=corner&output=mean", files=files)
    found = [(e["index"], e["output"]) for e in answer.json()["embeddings"]]
    assert [(i, o) for i in range(3) for o in ("corner", "mean")] == found


async def test_answers_follow_the_published_schema(gateway: Gateway) -> None:
    """What /openapi.json says of the answer is what comes, also for /models and /readyz."""
    api = (await gateway.client.get("/openapi.json")).json()
    for method, path, content in (("POST", "/embed", png()), ("GET", "/models", b""), ("GET", "/readyz", b"")):
        answer = await gateway.client.request(method, path, content=content)
        schema = api["paths"][path][method.lower()]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), schema | {"components": api["components"]})


async def test_the_second_time_is_a_hit(gateway: Gateway) -> None:
    """The same bytes again come from the cache, with the same vector."""
    one, two = [(await gateway.client.post("/embed", content=png())).json()["embeddings"][0] for _ in range(2)]
    assert ["miss", "hit"] == [one["cache"], two["cache"]]
    assert one["vector"] == two["vector"]


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("/embed", b"", (400, "bad-request")),
        ("/embed", b"GIF but no", (422, "not-an-image")),
        ("/embed", png()[:-200], (422, "broken-image")),
        ("/embed", b"\xff" * 5_001, (413, "image-too-large")),
        ("/embed", b"\xff" * 9_001, (413, "image-too-large")),
        ("/embed", encoded(noise(8, 8).resize((101, 100))), (413, "image-too-large")),
        ("/embed?model=nix", png(), (404, "unknown-model")),
        ("/embed?output=nix", png(), (404, "unknown-output")),
        ("/embed?output=mean&output=nix", png(), (404, "unknown-output")),
        ("/embet", png(), (404, "not-found")),
    ],
)
async def test_bad_requests_are_problems(
    gateway: Gateway, path: str, content: bytes, expected: tuple[int, str]
) -> None:
    """What the caller must change is a 4xx with a stable type, and no inference."""
    assert expected == problem(await gateway.client.post(path, content=content))
    assert [] == gateway.server.calls


async def test_a_body_without_a_length_is_counted_as_it_comes(gateway: Gateway) -> None:
    """A chunked body is refused once it is too large, not before and not never."""

    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"\xff" * 1000

    assert (422, "not-an-image") == problem(await gateway.client.post("/embed", content=chunks(5)))
    assert (413, "image-too-large") == problem(await gateway.client.post("/embed", content=chunks(6)))


async def test_forms_are_checked(gateway: Gateway) -> None:
    """Too many files, a field beside them, a broken form, an oversized part: each says what was expected."""
    post = gateway.client.post
    assert (413, "too-many-images") == problem(await post("/embed", files=[("image", png())] * 4))
    answer = await post("/embed", files=[("image", png())], data={"output": "mean"})
    assert (400, "bad-request") == problem(answer)
    assert "query string" in answer.json()["detail"]
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert (400, "bad-request") == problem(await post("/embed", content=b"--y\r\n", headers=broken))
    assert (413, "image-too-large") == problem(await post("/embed", files=[("image", b"\xff" * 5_001)]))
    assert (400, "bad-request") == problem(await post("/embed", files={}, headers=broken))


@pytest.mark.parametrize(
    ("failure", "expected", "retry_after"),
    [
        (ModelServerDown("gone", retry_after=2), (503, "model-server-down"), "2"),
        (ModelNotReady("loading"), (503, "model-not-ready"), "1"),
        (Overloaded("full"), (429, "overloaded"), "1"),
        (DeadlineExceeded("late"), (504, "deadline-exceeded"), "1"),
        (ModelServerFault("wrong"), (502, "model-server-fault"), None),
    ],
)
async def test_what_may_work_later_says_when(
    gateway: Gateway, failure: ServiceError, expected: tuple[int, str], retry_after: str | None
) -> None:
    """Failures behind the gateway have their own statuses, and Retry-After where trying again makes sense."""
    gateway.server.failure = failure
    answer = await gateway.client.post("/embed", content=png())
    assert expected == problem(answer)
    assert retry_after == answer.headers.get("retry-after")


async def test_an_unforeseen_error_tells_an_id_and_nothing_else(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    """The caller gets an id that stands in the log beside the cause; the cause stays there."""
    gateway.server.failure = RuntimeError("secret")  # type: ignore[assignment]
    answer = await gateway.client.post("/embed", content=png(), headers={"X-Request-ID": "from-the-caller"})
    assert (500, "internal-error") == problem(answer)
    assert "from-the-caller" == answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "secret" not in answer.text


async def test_every_answer_has_a_request_id(gateway: Gateway) -> None:
    """The caller's id comes back; one that could break a log line is replaced."""
    answer = await gateway.client.get("/livez", headers={"X-Request-ID": "abc"})
    assert "abc" == answer.headers["x-request-id"]
    replaced = await gateway.client.get("/nix", headers={"X-Request-ID": "x" * 1000})
    assert len(replaced.headers["x-request-id"]) == 32


@pytest.mark.parametrize("named", [b'filename="caf\xe9.jpg"', b"filename*=utf-8''caf%C3%A9.jpg"])
async def test_an_upload_by_any_name_is_embedded(gateway: Gateway, named: bytes) -> None:
    """As curl sends it where file names are Latin-1, and Python's requests before urllib3 1.25."""
    head = b'--XyZ\r\nContent-Disposition: form-data; name="image"; ' + named + b"\r\n\r\n"
    answer = await gateway.client.post(
        "/embed",
        content=head + png() + b"\r\n--XyZ--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=XyZ"},
    )
    assert (200, 1) == (answer.status_code, len(answer.json()["embeddings"]))
