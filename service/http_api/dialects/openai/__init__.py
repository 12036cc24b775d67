"""OpenAI's embeddings API for images, as OpenAI's, infinity's, Jina's, Haystack's and vLLM's clients write it."""

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.http_api.dialects import naming
from service.http_api.dialects.desk import Desk, Question
from service.http_api.dialects.dialect import Dialect
from service.http_api.dialects.documents import document
from service.http_api.dialects.openai import answers, inputs
from service.http_api.dialects.openai.models import models_router
from service.http_api.dialects.openai.wording import worded

_FIELDS = (*naming.FIELDS, *inputs.FIELDS, *answers.FIELDS)

_IGNORED = ("user", "modality", "task", "late_chunking", "truncate", "truncate_prompt_tokens", "input_type")
"""What clients say of texts, or of themselves."""


def read(body: bytes, *, default_model: str, max_bytes: int) -> Question:
    """Translate a request's body.

    Raises:
        BadRequest: not what the contract has.
        UnsupportedModality: text where images are expected.
    """
    fields = document(body, _FIELDS, _IGNORED)
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
        router.add_api_route(path, embeddings, methods=["POST"], summary="Embed images", response_class=Response)
    router.include_router(models_router(desk.intake.models))
    return router


DIALECT = Dialect("openai", "OpenAI, Jina, infinity, vLLM", ("/v1/", "/embeddings"), _routes, worded)
