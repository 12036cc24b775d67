"""OpenAI's embeddings API for images, as OpenAI's, infinity's, Jina's, Haystack's and vLLM's clients write it.

Vectors have the length 1 unless the request says otherwise: whoever asks in this contract compares by dot product.
"""

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.http_api.dialects import naming
from service.http_api.dialects.desk import Desk, Question
from service.http_api.dialects.dialect import Dialect
from service.http_api.dialects.documents import document
from service.http_api.dialects.openai import answers, inputs
from service.http_api.dialects.openai.wording import worded
from service.http_api.options import read_options

_FIELDS = (*naming.FIELDS, *inputs.FIELDS, *answers.FIELDS)
_IGNORED = ("user", "modality")


def read(body: bytes, *, default_model: str, max_bytes: int) -> Question:
    """Translate a request's body.

    Raises:
        BadRequest: not what the contract has.
        UnsupportedModality: text where images are expected.
    """
    fields = document(body, _FIELDS, _IGNORED)
    asked = naming.asked(fields, default_model)
    shape = {
        "normalize": fields.get("normalize", fields.get("normalized", True)),
        "dimensions": fields.get("dimensions"),
    }
    options = read_options((), shape)
    answering = answers.Answering(
        str(fields.get("model", default_model)), answers.encoding_of(fields), options.dimensions, options.normalize
    )
    return Question(
        asked, inputs.images(fields, max_bytes), answering, dimensions=options.dimensions, normalize=options.normalize
    )


def _routes(desk: Desk) -> APIRouter:
    router = APIRouter()
    reader = partial(read, default_model=desk.intake.default_model, max_bytes=desk.limits.max_image_bytes)

    async def embeddings(request: Request) -> Response:
        """Turn images into vectors, as OpenAI's API does with texts."""
        return await desk.serve(request, reader)

    for path in ("/v1/embeddings", "/embeddings"):
        router.add_api_route(path, embeddings, methods=["POST"], summary="Embed images", response_class=Response)
    return router


DIALECT = Dialect("openai", "OpenAI, Jina, infinity, vLLM", ("/v1/", "/embeddings"), _routes, worded)
