"""JSON is counted before objects are made of it, and long strings stay what they are."""

import json
import tracemalloc
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.errors import BadRequest, RequestRejected, TooManyImages, UnsupportedModality
from service.http.bodies import BodyLimits, read_json
from service.http.bounded_json import LongText, read_object
from service.http.compat import cohere, openai, voyage, weaviate
from service.http.json_images import from_base64, from_data_uri
from tests.pictures import png
from tests.unit.service.http.conftest import Gateway

LIMITS = BodyLimits(1 << 20, 64 << 20, 64)
NESTED = '{"image":' + '{"a":' * 900 + "1" + "}" * 901

text = st.text(max_size=12)
strings = text | st.tuples(text, st.integers(1, 3000)).map(lambda pair: pair[0] * pair[1])


def whole(value: Any) -> Any:
    """Return a value with all of its long strings as they are."""
    if isinstance(value, LongText):
        return value.unescaped().decode()
    if isinstance(value, list):
        return [whole(one) for one in value]
    return {name: whole(one) for name, one in value.items()} if isinstance(value, dict) else value


@settings(max_examples=30)
@given(
    st.dictionaries(
        text, st.recursive(strings | st.none() | st.integers(0, 9), lambda inner: st.lists(inner, max_size=4))
    )
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_it_reads_what_a_parser_reads(ascii_only: bool, value: dict[str, object]) -> None:
    """Whatever strings there are, long ones with escapes of every kind included."""
    body = json.dumps({"padding": [0] * 3000, **value}, ensure_ascii=ascii_only).encode()
    try:
        found = whole(read_object(body))
    except ValueError:  # many escapes in a row, of which no image consists
        return
    except BadRequest:
        assert b"\\" * 64 in body
        return
    assert orjson.loads(body) == found


@pytest.mark.parametrize(
    "body",
    [
        '{"images":[' + '"a",' * 500_000 + '"a"]}',
        '{"images":[' + "[]," * 600_000 + "[]]}",
        '{"images":[' + '{"a":{}},' * 200_000 + "{}]}",
        '{"images":[' + "1," * 900_000 + "1]}",
        '{"images":' + "[" * 1_000_000 + "]" * 1_000_000 + "}",
        '{"image":' + "9" * 2_000_000 + "}",
        '{"image":' + " " * 2_000_000 + "1}",
        '{"image":"' + '\\"' * 1_000_000 + '"}',
        '{"image":"' + "\\" * 2_000_000 + '"}',
        '{"image":"' + "a" * 2_000_000,
        NESTED + " " * 10_000,
    ],
    ids=[
        "strings",
        "lists",
        "objects",
        "numbers",
        "levels",
        "digits",
        "spaces",
        "quotes",
        "backslashes",
        "end",
        "deep",
    ],
)
@pytest.mark.parametrize("numbers", [False, True])
def test_what_no_request_needs_is_refused_before_it_is_built(body: str, numbers: bool) -> None:
    """Of 2 MB a parser would make up to 80; this takes no more than the body itself once more."""
    raw = body.encode()
    tracemalloc.start()
    try:
        with suppress(BadRequest):
            read_object(raw, numbers=numbers)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # orjson reserves 12 bytes for each byte that it is given, of which it uses few.
    assert peak < (14 if numbers else 2) * len(raw) + 500_000


def test_pixels_are_more_values_than_any_other_contract_has() -> None:
    """A picture of 224 by 224 in lists of three, each on its own line, and not where no numbers are expected."""
    body = json.dumps({"data": [[[1, 2, 3]] * 224] * 224}, indent=1).encode()
    assert 224 == len(read_object(body, numbers=True)["data"])
    with pytest.raises(BadRequest, match="bytes of JSON apart from its images"):
        read_object(body)


READERS: list[tuple[Callable[..., object], str, str]] = [
    (lambda body, **_: read_json(body, limits=LIMITS), "images", '{"b64":"AAAA"}'),
    (lambda body, **_: read_json(body, limits=LIMITS), "images", '"a"'),
    (openai.read, "input", '"data:;base64,AAAA"'),
    (openai.read, "messages", '{"content":[{"type":"image_url","image_url":"data:;base64,AAAA"}]}'),
    (cohere.read, "images", '"a"'),
    (cohere.read, "inputs", '{"content":[{"type":"image_url","image_url":"a"}]}'),
    (voyage.read, "inputs", '{"content":[{"type":"image_base64","image_base64":"a"}]}'),
    (weaviate.read_clip, "images", '"a"'),
]


@pytest.mark.parametrize(("read", "name", "image"), READERS)
def test_images_are_counted_while_they_are_read(read: Callable[..., object], name: str, image: str) -> None:
    """The first beyond the limit ends the request; before, each became an object or an error of its own."""
    body = f'{{"{name}":[{",".join([image] * 65)}]}}'.encode()
    with pytest.raises(TooManyImages):
        read(body, default_model="toy", limits=LIMITS)
    many = f'{{"{name}":[{",".join([image] * 50_000)}]}}'.encode()
    with pytest.raises((BadRequest, TooManyImages)):
        read(many, default_model="toy", limits=LIMITS)


IMAGE = bytes(range(256)) * 1200
B64 = b64encode(IMAGE).decode()


@pytest.mark.parametrize(
    "written",
    [
        B64,
        B64.replace("/", "\\/"),
        B64.replace("=", "\\u003d").replace("+", "\\u002B"),
        "\\n".join(B64[at : at + 76] for at in range(0, len(B64), 76)),
        "\\r\\n".join(B64[at : at + 76] for at in range(0, len(B64), 76)),
    ],
    ids=["plain", "PHP", "Gson", "lines", "lines of Windows"],
)
def test_base64_of_any_encoder_is_the_image(written: str) -> None:
    """Also where a chunk would end within an escape."""
    for head in ("", "data:image\\/png;base64,", "DATA:;base64,"):
        value = read_object(f'{{"image":"{head}{written}"}}'.encode())["image"]
        assert IMAGE == (from_data_uri(value, len(IMAGE)) if head else from_base64(value, len(IMAGE)))
    assert isinstance(from_base64(read_object(f'{{"image":"{written}"}}'.encode())["image"], 1000), RequestRejected)


@pytest.mark.parametrize("text", ["\\n" * 200_000, "A" * 100_000 + "\\x", "A" * 99_999, "é" * 50_000, "A\\\\" * 40_000])
def test_a_long_text_that_is_no_base64_is_an_error_of_its_image(text: str) -> None:
    """And not of the whole request, in which other images may be right."""
    (image,) = read_json(f'{{"image":"{text}"}}'.encode(), limits=LIMITS).images
    assert isinstance(image, BadRequest)
    assert "Expected base64" in str(image)


def test_a_long_address_is_refused() -> None:
    """It is no longer whole where it would be fetched."""
    (image,) = read_json(f'{{"images":[{{"url":"http://x/{"a" * 9000}"}}]}}'.encode(), limits=LIMITS).images
    assert isinstance(image, BadRequest)
    assert "at most 4096 characters" in str(image)


@pytest.mark.parametrize(
    "path",
    [
        "/embed",
        "/v1/embeddings",
        "/v2/embed",
        "/v1/multimodalembeddings",
        "/vectors",
        "/vectorize",
        "/v2/models/toy/infer",
    ],
)
@pytest.mark.parametrize(
    "name", ["image", "model", "output", "version", "embedding_types", "encoding_format", "id", "inputs"]
)
async def test_values_of_any_depth_are_refused(gateway: Gateway, path: str, name: str) -> None:
    """Python cannot write what is nested a thousand times, and orjson what is nested 254 times."""
    image = b64encode(png()).decode()
    for levels in (300, 1000):
        body = f'{{"image":"{image}","{name}":{"[" * levels}{"]" * levels}}}'
        answer = await gateway.client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in {400, 413}, (levels, answer.text)
        assert len(answer.content) < 2000


def test_more_token_ids_than_json_may_have_are_told_as_such() -> None:
    """LangChain sends them for a photo's data URI, and is told how it sends the photo."""
    body = b'{"input": [[' + b"100," * 200_000 + b'1]], "model": "m"}'
    with pytest.raises(UnsupportedModality, match="check_embedding_ctx_length=False"):
        openai.read(body, default_model="m", limits=LIMITS)
