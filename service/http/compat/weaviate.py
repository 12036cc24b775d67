"""Inference containers of Weaviate's image modules: `img2vec-neural` and `multi2vec-clip`.

`img2vec-neural` sends one image and reads one vector, `multi2vec-clip` several, also of texts. Vectors are as the model
outputs them. The wire format is that of Weaviate's Go clients (modules/img2vec-neural/clients and
modules/multi2vec-clip/clients): they send no Content-Type, parse a response as JSON before they check its status, and
keep idle connections for 90 s.

Weaviate sends no API key, so it cannot use gateways that require one.
"""

from functools import partial
from itertools import chain

from fastapi import APIRouter
from starlette.responses import Response

from microtome.errors import BadRequest, ModelNotReady, TemporarilyUnable
from service.core.requests import Embedded, EmbedRequest
from service.errors import of_model
from service.http.bodies import BodyLimits
from service.http.compat.errors import inference_error
from service.http.compat.handler import CompatHandler, CompatRequest, Dialect
from service.http.compat.openapi import NUMBERS, TEXT, WHOLE, an_array, described
from service.http.compat.parsing import image_of, json_fields, short
from service.http.compat.responses import json_response
from service.http.compat.texts import text_of
from service.http.json_images import at_most
from service.http.openapi import RED_PNG

_IMG2VEC_DOCS = described(
    "Img2vec",
    {
        "id": {**TEXT, "description": "Comes back in the answer."},
        "image": {**TEXT, "description": "An encoded image as base64."},
    },
    {"id": "1f2d3c4b-0000-4000-8000-000000000000_0", "image": RED_PNG},
    {"id": TEXT, "vector": NUMBERS, "dim": WHOLE},
    {"error": TEXT},
    shared={},
)


def read_img2vec(body: bytes | bytearray, *, default_model: str, limits: BodyLimits) -> CompatRequest:
    """Parse a request's body, `{"id": …, "image": "<bare base64>"}`.

    Raises:
        BadRequest: not a request of the contract.
    """
    fields = json_fields(body, ("id", "image"))
    if "image" not in fields:
        raise BadRequest('Expected {"id": "…", "image": "<base64>"}; received no image.')
    identity = short(fields.get("id", ""), "id")

    def answer(embedded: Embedded) -> Response:
        (embedding,) = embedded.embeddings
        return json_response({"id": identity, "vector": embedding.vector, "dim": len(embedding.vector)})

    return CompatRequest(EmbedRequest(default_model), [image_of(fields["image"], limits.max_image_bytes)], answer)


def _add_img2vec_routes(router: APIRouter, handler: CompatHandler) -> None:
    model = handler.intake.default_model

    async def ready() -> Response:
        """Say with 204 that the default model answers. Weaviate asks this at its start, and waits."""
        trouble = of_model(model, handler.intake.models.readiness())
        if trouble is not None:
            raise ModelNotReady(trouble)
        return Response(status_code=204)

    async def live() -> Response:
        """Say with 204 that the process is alive."""
        return Response(status_code=204)

    handler.post(
        router,
        "/vectors",
        read_img2vec,
        name="vectors",
        summary="Embed an image",
        description="Turn an image into the vector of the default model's default output.",
        **_IMG2VEC_DOCS,
    )
    # Some of the containers' own scripts write it with a slash.
    handler.post(router, "/vectors/", read_img2vec, include_in_schema=False)
    router.add_api_route("/.well-known/ready", ready, summary="Can it embed?", status_code=204)
    router.add_api_route("/.well-known/live", live, summary="Is the process alive?", status_code=204)


_IMG2VEC_PATHS = ("/vectors", "/vectors/", "/.well-known/ready", "/.well-known/live")

IMG2VEC = Dialect(
    "img2vec",
    "Weaviate img2vec-neural",
    _IMG2VEC_PATHS,
    _add_img2vec_routes,
    inference_error,
    frozenset({"/.well-known/ready", "/.well-known/live"}),
)
"""`IMAGE_INFERENCE_API=http://gateway:8000` in Weaviate's environment."""


_CLIP_DOCS = described(
    "Clip",
    {
        "texts": {"type": "array", "items": TEXT, "description": "For a model of images and text."},
        "images": {"type": "array", "items": TEXT, "description": "Encoded images as base64."},
    },
    {"images": [RED_PNG]},
    {"textVectors": an_array(NUMBERS), "imageVectors": an_array(NUMBERS)},
    {"error": TEXT},
    shared={},
)


def read_clip(body: bytes | bytearray, *, default_model: str, limits: BodyLimits) -> CompatRequest:
    """Parse a request's body, `{"texts": ["…", …], "images": ["<base64>", …]}`.

    Raises:
        BadRequest: not a request of the contract.
        TooManyImages: more items than the limit.
    """
    fields = json_fields(body, ("texts", "images"))
    texts, images = fields.get("texts", []), fields.get("images", [])
    if not isinstance(texts, list) or not isinstance(images, list) or (not texts and not images):
        raise BadRequest('Expected {"texts": ["…", …], "images": ["<base64>", …]}; received neither.')
    items = chain(map(text_of, texts), (image_of(image, limits.max_image_bytes) for image in images))
    return CompatRequest(
        EmbedRequest(default_model), at_most(limits.max_images, items), partial(_clip_answer, texts=len(texts))
    )


def _clip_answer(embedded: Embedded, *, texts: int) -> Response:
    vectors = [embedding.vector for embedding in embedded.embeddings]
    return json_response({"textVectors": vectors[:texts], "imageVectors": vectors[texts:]})


def _add_clip_routes(router: APIRouter, handler: CompatHandler) -> None:
    model = handler.intake.default_model

    async def meta() -> dict[str, object]:
        """Say what answers. Weaviate shows it among its modules."""
        try:
            card = handler.intake.models.card(model)
        except TemporarilyUnable:
            return {"model": model}
        space = {"space": card.manifest.space} if card.manifest.space else {}
        return {"model": card.name, "version": card.version, "fingerprint": card.manifest.fingerprint, **space}

    handler.post(
        router,
        "/vectorize",
        read_clip,
        name="vectorize",
        summary="Embed images and texts",
        description="Turn images and texts into vectors of the default model's default output.",
        **_CLIP_DOCS,
    )
    router.add_api_route("/meta", meta, summary="Say what answers")


CLIP = Dialect(
    "clip", "Weaviate multi2vec-clip", ("/vectorize", "/meta"), _add_clip_routes, inference_error, frozenset({"/meta"})
)
"""`CLIP_INFERENCE_API=http://gateway:8000` in Weaviate's environment."""
