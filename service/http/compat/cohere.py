"""Cohere's POST /v2/embed for images. One image may be asked for in several number types at once."""

from collections.abc import Mapping
from functools import partial
from uuid import uuid4

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from service.core.remote_images import Image
from service.core.requests import Embedded
from service.errors import BadRequest, UnsupportedModality
from service.http.compat import naming
from service.http.compat.described import PHOTO, TEXT, WHOLE, described, one_of
from service.http.compat.dialect import Dialect
from service.http.compat.documents import choice, document
from service.http.compat.facts import facts
from service.http.compat.handler import Desk, Question
from service.http.compat.number_types import CALIBRATED, KINDS, Shape, base64_of, shape_of
from service.http.compat.pictures import NO_TEXT, picture
from service.http.compat.rejections import status_of
from service.http.wording import Failure

_FIELDS = (*naming.FIELDS, "images", "inputs", "texts", "embedding_types", "output_dimension", "normalize")
_IGNORED = ("input_type", "truncate", "max_tokens", "priority")
_EXPECTED = "Expected `images`: data URIs; or `inputs`: objects whose `content` is one image_url each"

_DESCRIBED = described(
    {
        "images": {"type": "array", "items": TEXT, "description": "Data URIs."},
        "inputs": {"type": "array", "items": {"type": "object"}, "description": "Objects with one image_url each."},
        "embedding_types": {"type": "array", "items": one_of(*KINDS, "base64")},
        "output_dimension": WHOLE,
    },
    {"input_type": "image", "images": [PHOTO], "embedding_types": ["float"]},
    {"id": TEXT, "response_type": TEXT, "embeddings": {"type": "object"}, "meta": {"type": "object"}},
    {"message": TEXT},
)


def read(body: bytes, *, default_model: str, max_bytes: int) -> Question:
    """Translate a request's body.

    Raises:
        BadRequest: not what the contract has.
        UnsupportedModality: text where images are expected.
    """
    fields = document(body, _FIELDS, _IGNORED)
    kinds = _kinds(fields)
    shape = shape_of(fields, dimensions="output_dimension")
    images = _images(fields, max_bytes)
    return Question(
        naming.asked(fields, default_model),
        images,
        partial(_answer, shape=shape, kinds=kinds, images=images),
        dimensions=shape.dimensions,
        aside=True,
        int8=not CALIBRATED.isdisjoint(kinds),
    )


def _kinds(fields: Mapping[str, object]) -> list[str]:
    kinds = fields.get("embedding_types", ["float"])
    if not isinstance(kinds, list) or not kinds:
        raise BadRequest(f"Expected `embedding_types` to be a list of some of {', '.join((*KINDS, 'base64'))}.")
    return list(
        dict.fromkeys(
            choice({"embedding_types": kind}, "embedding_types", (*KINDS, "base64"), "float") for kind in kinds
        )
    )


def _images(fields: Mapping[str, object], max_bytes: int) -> list[Image]:
    match fields:
        case {"texts": [_, *_]}:
            raise UnsupportedModality(NO_TEXT)
        case {"images": [_, *_] as images} if "inputs" not in fields:
            return [picture(image, max_bytes) for image in images]
        case {"inputs": [_, *_] as inputs} if "images" not in fields:
            return [_input(one, max_bytes) for one in inputs]
    raise BadRequest(f"{_EXPECTED}; received neither, both, or an empty list.")


def _input(one: object, max_bytes: int) -> Image:
    match one:
        case {"content": [{"type": "image_url", "image_url": {"url": text} | (str() as text)}]}:
            return picture(text, max_bytes)
        case {"content": [*parts]} if any(isinstance(part, dict) and part.get("type") == "text" for part in parts):
            raise UnsupportedModality(NO_TEXT)
    raise BadRequest(f"{_EXPECTED}; received an input that is something else.")


def _answer(embedded: Embedded, *, shape: Shape, kinds: list[str], images: list[Image]) -> Response:
    embeddings: dict[str, object] = {}
    for kind in kinds:
        rows = list(shape.rows(embedded, "float" if kind == "base64" else kind))
        embeddings[kind] = [base64_of(row) for row in rows] if kind == "base64" else rows
    body = {
        "id": str(uuid4()),
        "response_type": "embeddings_by_type",
        "embeddings": embeddings,
        "texts": [],
        "images": [one._asdict() for one in facts(images)],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"images": len(images)}},
    }
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def _worded(failure: Failure) -> Response:
    body = orjson.dumps({"message": failure.detail})
    return Response(body, status_of(failure).value, dict(failure.headers), "application/json")


def _routes(desk: Desk) -> APIRouter:
    router = APIRouter()
    reader = partial(read, default_model=desk.intake.default_model, max_bytes=desk.limits.max_image_bytes)

    @router.post("/v2/embed", summary="Embed images", response_class=Response, **_DESCRIBED)
    async def embed(request: Request) -> Response:
        """Turn images into vectors, as Cohere's API does."""
        return await desk.serve(request, reader)

    return router


DIALECT = Dialect("cohere", "Cohere", ("/v2/embed",), _routes, _worded)
