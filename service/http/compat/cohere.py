"""Cohere's POST /v2/embed for images and texts. One request may ask for several number types."""

from collections.abc import Iterator, Mapping
from functools import partial
from uuid import uuid4

from fastapi import APIRouter
from starlette.responses import Response

from microtome.errors import BadRequest
from service.core.remote_images import Image, Text
from service.core.requests import Embedded
from service.http.bodies import BodyLimits
from service.http.compat.errors import embedding_error
from service.http.compat.handler import CompatHandler, CompatRequest, Dialect
from service.http.compat.openapi import NUMBERS, PHOTO, TEXT, WHOLE, an_array, an_object, described, one_of
from service.http.compat.parsing import MODEL_FIELDS, choice, embed_request, image_of, json_fields
from service.http.compat.responses import (
    CALIBRATED,
    NUMBER_TYPES,
    Shape,
    base64_of,
    image_facts,
    json_response,
    shape_of,
)
from service.http.compat.texts import text_of, tokens_of
from service.http.json_images import at_most

_FIELDS = (*MODEL_FIELDS, "images", "inputs", "texts", "embedding_types", "output_dimension", "normalize", "truncate")
_IGNORED = ("input_type", "max_tokens")
_LAST = 999
"""Cohere's lowest priority."""

_EXPECTED = (
    "Expected one of `images`: data URIs; `texts`; and `inputs`: objects whose `content` is one image_url or text each"
)

_VECTORS = an_object(
    "CohereVectors",
    {**{kind: an_array(NUMBERS) for kind in NUMBER_TYPES}, "base64": an_array(TEXT)},
    (),
)

_DESCRIBED = described(
    "CohereEmbed",
    {
        "images": {"type": "array", "items": TEXT, "description": "Data URIs."},
        "inputs": {
            "type": "array",
            "items": {"type": "object"},
            "description": "Objects with one image_url or text each.",
        },
        "texts": {"type": "array", "items": TEXT, "description": "For a model of images and text."},
        "embedding_types": {"type": "array", "items": one_of(*NUMBER_TYPES, "base64")},
        "output_dimension": WHOLE,
    },
    {"input_type": "image", "images": [PHOTO], "embedding_types": ["float"]},
    {"id": TEXT, "response_type": TEXT, "embeddings": _VECTORS, "meta": {"type": "object"}},
    {"message": TEXT},
)


def read(body: bytes | bytearray, *, default_model: str, limits: BodyLimits) -> CompatRequest:
    """Parse a request's body.

    Raises:
        BadRequest: not a request of the contract.
        TooManyImages: more items than the limit.
    """
    fields = dict(json_fields(body, _FIELDS, _IGNORED))
    # Cohere's is a number: 0 goes first, and is its default.
    if isinstance(number := fields.get("priority"), int) and not isinstance(number, bool) and 0 <= number <= _LAST:
        fields["priority"] = "bulk" if number else "interactive"
    kinds = _kinds(fields)
    shape = shape_of(fields, dimensions="output_dimension")
    images = at_most(limits.max_images, _items(fields, limits.max_image_bytes))
    return CompatRequest(
        embed_request(fields, default_model),
        images,
        partial(_answer, shape=shape, kinds=kinds, images=images),
        dimensions=shape.dimensions,
        in_thread=True,
        whole=choice(fields, "truncate", ("NONE", "END"), "END") == "NONE",
        int8=not CALIBRATED.isdisjoint(kinds),
    )


def _kinds(fields: Mapping[str, object]) -> list[str]:
    kinds = fields.get("embedding_types", ["float"])
    if not isinstance(kinds, list) or not kinds:
        raise BadRequest(f"Expected `embedding_types` to be a list of some of {', '.join((*NUMBER_TYPES, 'base64'))}.")
    return list(
        dict.fromkeys(
            choice({"embedding_types": kind}, "embedding_types", (*NUMBER_TYPES, "base64"), "float") for kind in kinds
        )
    )


def _items(fields: Mapping[str, object], max_bytes: int) -> Iterator[Image]:
    given = [name for name in ("images", "texts", "inputs") if fields.get(name)]
    match {name: fields[name] for name in given[:1]}:
        case {"images": [_, *_] as images} if len(given) == 1:
            return (image_of(image, max_bytes) for image in images)
        case {"texts": [_, *_] as texts} if len(given) == 1:
            return (text_of(text) for text in texts)
        case {"inputs": [_, *_] as inputs} if len(given) == 1:
            return (_input(one, max_bytes) for one in inputs)
    raise BadRequest(f"{_EXPECTED}; received none or several of them.")


def _input(one: object, max_bytes: int) -> Image:
    match one:
        case {"content": [{"type": "image_url", "image_url": {"url": text} | (str() as text)}]}:
            return image_of(text, max_bytes)
        case {"content": [{"type": "text", "text": text}]}:
            return text_of(text)
    raise BadRequest(f"{_EXPECTED}; received an input that is something else.")


def _answer(embedded: Embedded, *, shape: Shape, kinds: list[str], images: list[Image]) -> Response:
    embeddings: dict[str, object] = {}
    for kind in kinds:
        rows = list(shape.rows(embedded, "float" if kind == "base64" else kind))
        embeddings[kind] = [base64_of(row) for row in rows] if kind == "base64" else rows
    tokens, pictures = tokens_of(embedded, images), sum(not isinstance(item, Text) for item in images)
    billed = {name: count for name, count in (("images", pictures), ("input_tokens", tokens)) if count}
    body = {
        "id": str(uuid4()),
        "response_type": "embeddings_by_type",
        "embeddings": embeddings,
        "texts": [item.text for item in images if isinstance(item, Text)],
        "images": [one._asdict() for one in image_facts(images)],
        "meta": {"api_version": {"version": "2"}, "billed_units": billed},
    }
    return json_response(body)


def _add_routes(router: APIRouter, handler: CompatHandler) -> None:
    description = "Turn images into vectors, as Cohere's API does."
    handler.post(router, "/v2/embed", read, name="embed", summary="Embed images", description=description, **_DESCRIBED)


DIALECT = Dialect("cohere", "Cohere", ("/v2/embed",), _add_routes, embedding_error("message"))
