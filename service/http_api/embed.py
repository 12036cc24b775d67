"""POST /embed: images in, vectors out."""

import asyncio
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.embedding.budget import Budget
from service.embedding.embedder import Embedder
from service.embedding.ports import Observer
from service.embedding.request import Embedded, EmbedRequest
from service.embedding.stopwatch import timed
from service.errors import DeadlineExceeded
from service.http_api.body import BodyLimits, received_images
from service.http_api.documentation import EMBED_BODY, problems
from service.http_api.schemas import EmbedAnswer


def embed_router(  # noqa: PLR0913, collaborators
    embedder: Embedder, *, default_model: str, limits: BodyLimits, bodies: Budget, deadline: float, observer: Observer
) -> APIRouter:
    """Build the route over the core.

    Args:
        embedder: the core.
        default_model: who answers when the request names no model.
        limits: of one request's body.
        bodies: bytes of bodies in flight.
        deadline: seconds from the request's head to the answer.
        observer: is told how long reading and encoding took.
    """
    router = APIRouter()

    @router.post(
        "/embed",
        summary="Embed images",
        response_model=EmbedAnswer,
        responses=problems(400, 404, 413, 422, 429, 502, 503, 504),
        openapi_extra={"requestBody": EMBED_BODY},
    )
    async def embed(
        request: Request,
        model: Annotated[str | None, Query(description=f"Which model; without it `{default_model}`.")] = None,
        output: Annotated[
            list[str] | None, Query(description="Which of its outputs, repeatable; without it the default output.")
        ] = None,
    ) -> Response:
        """Turn images into vectors: one image as the body, or several as file parts of a form.

        Every vector of an answer comes from the same version of the same model, which the answer names.
        """
        try:
            async with asyncio.timeout(deadline):
                async with received_images(request, limits, bodies, observer) as images:
                    embedded = await embedder.embed(_request(model or default_model, output), images)
        except TimeoutError:
            raise DeadlineExceeded(f"No answer within {deadline:g} s, the time allowed for a request.") from None
        with timed(observer.stage, "encode"):
            return Response(_encode(embedded), media_type="application/json")

    return router


def _request(model: str, outputs: list[str] | None) -> EmbedRequest:
    return EmbedRequest(model, outputs=tuple(outputs or ()))


def _encode(embedded: Embedded) -> bytes:
    answer: dict[str, Any] = {
        "model": embedded.card.name,
        "version": embedded.card.version,
        "fingerprint": embedded.card.manifest.fingerprint,
        "embeddings": [
            {
                "index": e.index,
                "output": e.output,
                "dim": len(e.vector),
                "vector": e.vector,
                "cache": e.cache,
            }
            for e in embedded.embeddings
        ],
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
