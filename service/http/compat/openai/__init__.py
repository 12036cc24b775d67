"""OpenAI's embeddings API for images, as OpenAI's, infinity's, Jina's, Haystack's and vLLM's clients write it."""

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.errors import BadRequest, UnsupportedModality
from service.http.compat import naming
from service.http.compat.described import PHOTO, TEXT, WHOLE, described, one_of
from service.http.compat.dialect import Dialect
from service.http.compat.documents import document
from service.http.compat.handler import Desk, Question
from service.http.compat.number_types import KINDS
from service.http.compat.openai import answers, inputs
from service.http.compat.openai.models import models_router
from service.http.compat.openai.wording import worded

_FIELDS = (*naming.FIELDS, *inputs.FIELDS, *answers.FIELDS, "modality", "return_multivector")

_OF_TEXTS = ("task", "late_chunking", "input_type", "truncate", "truncate_prompt_tokens", "add_special_tokens")
_OF_CHATS = ("chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")
_IGNORED = (*_OF_TEXTS, *_OF_CHATS, "mm_processor_kwargs", "priority", "user")
"""What clients say of texts, of chats, or of themselves."""

_DESCRIBED = described(
    {
        "input": {"description": "An image or a list of images: data URI, address, or an object with `image`."},
        "messages": {"description": "vLLM's form: messages with image_url contents, in place of `input`."},
        "encoding_format": one_of("float", "base64", "bytes"),
        "embedding_type": one_of(*KINDS, "base64"),
        "dimensions": WHOLE,
    },
    {"input": [PHOTO]},
    {"object": TEXT, "data": {"type": "array"}, "model": TEXT, "usage": {"type": "object"}},
    {"error": {"type": "object"}, "detail": TEXT},
)


def read(body: bytes, *, default_model: str, max_bytes: int) -> Question:
    """Translate a request's body.

    Raises:
        BadRequest: not what the contract has.
        UnsupportedModality: text where images are expected.
    """
    fields = document(body, _FIELDS, _IGNORED)
    if fields.get("modality", "image") != "image":
        raise UnsupportedModality(f"Expected `modality` to be image, received {str(fields['modality'])[:40]!r}.")
    if fields.get("return_multivector"):
        raise BadRequest("Expected no `return_multivector`: there is one vector for each image here.")
    answering = answers.answering(fields, default_model)
    return Question(
        naming.asked(fields, default_model),
        inputs.images(fields, max_bytes),
        answering,
        dimensions=answering.shape.dimensions,
        int8=answering.calibrated,
    )


def _routes(desk: Desk) -> APIRouter:
    router = APIRouter()
    reader = partial(read, default_model=desk.intake.default_model, max_bytes=desk.limits.max_image_bytes)

    async def embeddings(request: Request) -> Response:
        """Turn images into vectors, as OpenAI's API does with texts."""
        return await desk.serve(request, reader)

    for path in ("/v1/embeddings", "/embeddings"):
        router.add_api_route(
            path, embeddings, methods=["POST"], summary="Embed images", response_class=Response, **_DESCRIBED
        )
    router.include_router(models_router(desk.intake.models))
    return router


DIALECT = Dialect("openai", "OpenAI, Jina, infinity, vLLM", ("/v1/", "/embeddings"), _routes, worded)
