"""Voyage AI's POST /v1/multimodalembeddings for images: one image in each input."""

from dataclasses import dataclass
from functools import partial

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

_FIELDS = (*naming.FIELDS, "inputs", "output_dtype", "output_dimension", "encoding_format", "normalize")
_IGNORED = ("input_type", "truncation")
_EXPECTED = "Expected `inputs`: objects whose `content` is one image_url or image_base64 each"

_OTHERS = {
    "text": NO_TEXT,
    "video_url": "This server embeds images only, and received a video. Send frames of it.",
    "video_base64": "This server embeds images only, and received a video. Send frames of it.",
}

_DESCRIBED = described(
    {
        "inputs": {
            "type": "array",
            "items": {"type": "object"},
            "description": "Objects whose content is one image_url or image_base64 each.",
        },
        "output_dtype": one_of(*KINDS),
        "output_dimension": WHOLE,
        "encoding_format": one_of("float", "base64"),
    },
    {"inputs": [{"content": [{"type": "image_base64", "image_base64": PHOTO}]}]},
    {"object": TEXT, "data": {"type": "array"}, "model": TEXT, "usage": {"type": "object"}},
    {"detail": TEXT},
)


def read(body: bytes, *, default_model: str, max_bytes: int) -> Question:
    """Translate a request's body.

    Raises:
        BadRequest: not what the contract has.
        UnsupportedModality: text or video where images are expected.
    """
    fields = document(body, _FIELDS, _IGNORED)
    inputs = fields.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise BadRequest(f"{_EXPECTED}; received none.")
    images = [_input(one, max_bytes) for one in inputs]
    kind = choice(fields, "output_dtype", KINDS, "float")
    shape = shape_of(fields, dimensions="output_dimension")
    letters = choice(fields, "encoding_format", ("float", "base64"), "float") == "base64"
    return Question(
        naming.asked(fields, default_model),
        images,
        _Answering(str(fields.get("model", default_model)), shape, kind, letters, images),
        dimensions=shape.dimensions,
        aside=True,
        int8=kind in CALIBRATED,
    )


def _input(one: object, max_bytes: int) -> Image:
    match one:
        case {"content": [{"type": "image_url", "image_url": text}]}:
            return picture(text, max_bytes)
        case {"content": [{"type": "image_base64", "image_base64": text}]}:
            return picture(text, max_bytes)
        case {"content": [*parts]}:
            for part in parts:
                kind = part.get("type") if isinstance(part, dict) else None
                if isinstance(kind, str) and kind in _OTHERS:
                    raise UnsupportedModality(_OTHERS[kind])
    raise BadRequest(f"{_EXPECTED}; received an input that is something else.")


@dataclass(frozen=True, slots=True)
class _Answering:
    model: str
    shape: Shape
    kind: str
    letters: bool
    images: list[Image]

    def __call__(self, embedded: Embedded) -> Response:
        rows = self.shape.rows(embedded, self.kind)
        pixels = sum(one.width * one.height for one in facts(self.images))
        body = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": base64_of(row) if self.letters else row}
                for index, row in enumerate(rows)
            ],
            "model": self.model,
            # Its client reads all four, and fails where one is missing.
            "usage": {"text_tokens": 0, "image_pixels": pixels, "video_pixels": 0, "total_tokens": len(rows)},
        }
        return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def _worded(failure: Failure) -> Response:
    body = orjson.dumps({"detail": failure.detail})
    return Response(body, status_of(failure).value, dict(failure.headers), "application/json")


def _routes(desk: Desk) -> APIRouter:
    router = APIRouter()
    reader = partial(read, default_model=desk.intake.default_model, max_bytes=desk.limits.max_image_bytes)

    @router.post("/v1/multimodalembeddings", summary="Embed images", response_class=Response, **_DESCRIBED)
    async def multimodal_embeddings(request: Request) -> Response:
        """Turn images into vectors, as Voyage AI's API does."""
        return await desk.serve(request, reader)

    return router


DIALECT = Dialect("voyage", "Voyage AI", ("/v1/multimodalembeddings",), _routes, _worded)
