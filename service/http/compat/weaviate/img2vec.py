"""`img2vec-neural`: one image, one vector as the model makes it, which is what the containers before us gave."""

from functools import partial

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from service.core.requests import Embedded, EmbedRequest
from service.errors import BadRequest, ModelNotReady
from service.http.compat.described import TEXT, WHOLE, described
from service.http.compat.dialect import Dialect
from service.http.compat.documents import document
from service.http.compat.handler import Desk, Question
from service.http.compat.one_sentence import worded
from service.http.compat.pictures import picture
from service.http.examples import RED_PNG

_DESCRIBED = described(
    {
        "id": {**TEXT, "description": "Comes back in the answer."},
        "image": {**TEXT, "description": "An encoded image as base64."},
    },
    {"id": "1f2d3c4b-0000-4000-8000-000000000000_0", "image": RED_PNG},
    {"id": TEXT, "vector": {"type": "array"}, "dim": WHOLE},
    {"error": TEXT},
    shared={},
)


def read(body: bytes, *, default_model: str, max_bytes: int) -> Question:
    """Translate a request's body, `{"id": …, "image": "<bare base64>"}`.

    Raises:
        BadRequest: not what the contract has.
    """
    fields = document(body, ("id", "image"))
    if "image" not in fields:
        raise BadRequest('Expected {"id": "…", "image": "<base64>"}; received no image.')
    identity = fields.get("id", "")

    def answer(embedded: Embedded) -> Response:
        (embedding,) = embedded.embeddings
        told = {"id": identity, "vector": embedding.vector, "dim": len(embedding.vector)}
        return Response(orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")

    return Question(EmbedRequest(default_model), [picture(fields["image"], max_bytes)], answer)


def _routes(desk: Desk) -> APIRouter:
    router = APIRouter()
    model = desk.intake.default_model
    reader = partial(read, default_model=model, max_bytes=desk.limits.max_image_bytes)

    async def vectors(request: Request) -> Response:
        """Turn an image into the vector of the default model's default output."""
        return await desk.serve(request, reader)

    async def ready() -> Response:
        """Say with 204 that the default model answers. Weaviate asks this at its start, and waits."""
        trouble = desk.intake.models.readiness()[model]
        if trouble is not None:
            raise ModelNotReady(trouble)
        return Response(status_code=204)

    async def live() -> Response:
        """Say with 204 that the process is alive."""
        return Response(status_code=204)

    router.add_api_route(
        "/vectors", vectors, methods=["POST"], summary="Embed an image", response_class=Response, **_DESCRIBED
    )
    # Some of the containers' own scripts write it with a slash.
    router.add_api_route("/vectors/", vectors, methods=["POST"], include_in_schema=False)
    router.add_api_route("/.well-known/ready", ready, summary="Can it embed?", status_code=204)
    router.add_api_route("/.well-known/live", live, summary="Is the process alive?", status_code=204)
    return router


_PATHS = ("/vectors", "/vectors/", "/.well-known/ready", "/.well-known/live")

IMG2VEC = Dialect(
    "img2vec",
    "Weaviate img2vec-neural",
    _PATHS,
    _routes,
    worded,
    frozenset({"/.well-known/ready", "/.well-known/live"}),
)
"""`IMAGE_INFERENCE_API=http://gateway:8000` in Weaviate's environment."""
