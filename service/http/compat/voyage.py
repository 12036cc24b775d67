"""Voyage AI's POST /v1/multimodalembeddings for images and texts: one of them in each input."""

from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter
from starlette.responses import Response

from microtome.errors import BadRequest, UnsupportedModality
from service.core.remote_images import Image, Text
from service.core.requests import Embedded
from service.http.bodies import BodyLimits
from service.http.compat.errors import embedding_error
from service.http.compat.handler import CompatHandler, CompatRequest, Dialect
from service.http.compat.openapi import COUNT, PHOTO, TEXT, VECTOR, WHOLE, an_array, an_object, described, one_of
from service.http.compat.parsing import MODEL_FIELDS, choice, embed_request, image_of, json_fields
from service.http.compat.responses import CALIBRATED, NUMBER_TYPES, Shape, image_facts, json_response, listed, shape_of
from service.http.compat.texts import text_of, tokens_of
from service.http.json_images import at_most

_FIELDS = (*MODEL_FIELDS, "inputs", "output_dtype", "output_dimension", "encoding_format", "normalize", "truncation")
_IGNORED = ("input_type",)
_EXPECTED = "Expected `inputs`: objects whose `content` is one image_url, image_base64 or text each"

_VIDEOS = ("video_url", "video_base64")

_VECTOR = an_object("VoyageEmbedding", {"object": TEXT, "index": COUNT, "embedding": VECTOR})
_USAGE = an_object("VoyageUsage", dict.fromkeys(("text_tokens", "image_pixels", "video_pixels", "total_tokens"), COUNT))

_DESCRIBED = described(
    "VoyageEmbeddings",
    {
        "inputs": {
            "type": "array",
            "items": {"type": "object"},
            "description": "Objects whose content is one image_url, image_base64 or text each.",
        },
        "output_dtype": one_of(*NUMBER_TYPES),
        "output_dimension": WHOLE,
        "encoding_format": one_of("float", "base64"),
    },
    {"inputs": [{"content": [{"type": "image_base64", "image_base64": PHOTO}]}]},
    {"object": TEXT, "data": an_array(_VECTOR), "model": TEXT, "usage": _USAGE},
    {"detail": TEXT},
)


def read(body: bytes | bytearray, *, default_model: str, limits: BodyLimits) -> CompatRequest:
    """Parse a request's body.

    Raises:
        BadRequest: not a request of the contract.
        UnsupportedModality: a video.
        TooManyImages: more items than the limit.
    """
    fields = json_fields(body, _FIELDS, _IGNORED)
    inputs = fields.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise BadRequest(f"{_EXPECTED}; received none.")
    images = at_most(limits.max_images, (_input(one, limits.max_image_bytes) for one in inputs))
    kind = choice(fields, "output_dtype", NUMBER_TYPES, "float")
    shape = shape_of(fields, dimensions="output_dimension")
    base64 = choice(fields, "encoding_format", ("float", "base64"), "float") == "base64"
    model = str(fields.get("model", default_model))
    return CompatRequest(
        embed_request(fields, default_model),
        images,
        partial(_write, model=model, shape=shape, kind=kind, base64=base64, images=images),
        dimensions=shape.dimensions,
        in_thread=True,
        whole=fields.get("truncation") is False,
        int8=kind in CALIBRATED,
    )


def _input(one: object, max_bytes: int) -> Image:
    match one:
        case {"content": [{"type": "image_url", "image_url": text} | {"type": "image_base64", "image_base64": text}]}:
            return image_of(text, max_bytes)
        case {"content": [{"type": "text", "text": text}]}:
            return text_of(text)
        case {"content": [*parts]} if any(isinstance(part, dict) and part.get("type") in _VIDEOS for part in parts):
            raise UnsupportedModality("This server embeds no videos, and received a video. Send frames of it.")
    raise BadRequest(f"{_EXPECTED}; received an input that is something else.")


def _write(  # noqa: PLR0913, what the request asks for
    embedded: Embedded, *, model: str, shape: Shape, kind: str, base64: bool, images: Sequence[Image]
) -> Response:
    rows = shape.rows(embedded, kind)
    pixels = sum(one.width * one.height for one in image_facts(images))
    # Voyage's client fails if one of the four is missing.
    tokens, pictures = tokens_of(embedded, images), sum(not isinstance(item, Text) for item in images)
    usage = {"text_tokens": tokens, "image_pixels": pixels, "video_pixels": 0, "total_tokens": tokens + pictures}
    return json_response({"object": "list", "data": listed(rows, base64=base64), "model": model, "usage": usage})


def _add_routes(router: APIRouter, handler: CompatHandler) -> None:
    handler.post(
        router,
        "/v1/multimodalembeddings",
        read,
        name="multimodal_embeddings",
        summary="Embed images",
        description="Turn images into vectors, as Voyage AI's API does.",
        **_DESCRIBED,
    )


DIALECT = Dialect("voyage", "Voyage AI", ("/v1/multimodalembeddings",), _add_routes, embedding_error("detail"))
