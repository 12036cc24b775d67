"""`multi2vec-clip`, as far as it is about images: several of them, a vector for each as the model makes it."""

from functools import partial

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from service.core.requests import Embedded, EmbedRequest
from service.errors import BadRequest, UnsupportedModality
from service.http.compat.described import TEXT, described
from service.http.compat.dialect import Dialect
from service.http.compat.documents import document
from service.http.compat.handler import Desk, Question
from service.http.compat.one_sentence import worded
from service.http.compat.pictures import NO_TEXT, picture
from service.http.examples import RED_PNG

_DESCRIBED = described(
    {"images": {"type": "array", "items": TEXT, "description": "Encoded images as base64."}},
    {"images": [RED_PNG]},
    {"textVectors": {"type": "array"}, "imageVectors": {"type": "array"}},
    {"error": TEXT},
    shared={},
)


def read(body: bytes, *, default_model: str, max_bytes: int) -> Question:
    """Translate a request's body, `{"images": ["<base64>", …]}`.

    Raises:
        UnsupportedModality: it has texts.
        BadRequest: not what the contract has.
    """
    fields = document(body, ("texts", "images"))
    if fields.get("texts"):
        raise UnsupportedModality(NO_TEXT)
    images = fields.get("images")
    if not isinstance(images, list) or not images:
        raise BadRequest('Expected {"images": ["<base64>", …]}; received no images.')
    return Question(EmbedRequest(default_model), [picture(image, max_bytes) for image in images], _answer)


def _answer(embedded: Embedded) -> Response:
    told = {"textVectors": [], "imageVectors": [embedding.vector for embedding in embedded.embeddings]}
    return Response(orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def _routes(desk: Desk) -> APIRouter:
    router = APIRouter()
    model = desk.intake.default_model
    reader = partial(read, default_model=model, max_bytes=desk.limits.max_image_bytes)

    async def vectorize(request: Request) -> Response:
        """Turn images into vectors of the default model's default output."""
        return await desk.serve(request, reader)

    async def meta() -> dict[str, object]:
        """Say what answers. Weaviate shows it among its modules."""
        card = desk.intake.models.cards()[model]
        if card is None:
            return {"model": model}
        return {"model": model, "version": card.version, "fingerprint": card.manifest.fingerprint}

    router.add_api_route(
        "/vectorize", vectorize, methods=["POST"], summary="Embed images", response_class=Response, **_DESCRIBED
    )
    router.add_api_route("/meta", meta, summary="Say what answers")
    return router


CLIP = Dialect("clip", "Weaviate multi2vec-clip", ("/vectorize", "/meta"), _routes, worded, frozenset({"/meta"}))
"""`CLIP_INFERENCE_API=http://gateway:8000` in Weaviate's environment."""
