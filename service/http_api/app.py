"""Put the HTTP application together."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service.embedding.budget import Budget
from service.embedding.embedder import Embedder
from service.embedding.ports import ModelServer
from service.http_api import problems
from service.http_api.body import BodyLimits
from service.http_api.embed import embed_router
from service.http_api.models import models_router
from service.http_api.observed import Observed
from service.http_api.operations import operations_router
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics

_DESCRIPTION = """
Image embeddings from any layer of a pretrained vision backbone.

Try `POST /embed` below with a photo, or:

    curl --data-binary @photo.jpg http://localhost:8000/embed

Errors are problem details (RFC 9457); switch on their `type`.
"""


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """What the HTTP side needs to know beside its collaborators; `deadline` in seconds."""

    default_model: str
    limits: BodyLimits
    deadline: float
    version: str


def http_app(  # noqa: PLR0913, collaborators
    *,
    embedder: Embedder,
    models: ModelServer,
    bodies: Budget,
    options: HttpOptions,
    metrics: Metrics,
    log: Logger,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
) -> FastAPI:
    """Build the application; `lifespan` starts and stops what it stands on."""
    # The documentation pages are served from here, not from somebody's content network: they work without internet.
    app = FastAPIOffline(
        redoc_url=None,
        static_url="/docs-assets",
        title="Microtome",
        description=_DESCRIPTION,
        version=options.version,
        lifespan=lifespan,
    )
    app.include_router(
        embed_router(
            embedder,
            default_model=options.default_model,
            limits=options.limits,
            bodies=bodies,
            deadline=options.deadline,
            observer=metrics,
        ),
        tags=["embeddings"],
    )
    app.include_router(models_router(models, options.default_model), tags=["models"])
    app.include_router(operations_router(models, metrics), tags=["operations"])
    problems.install(app, metrics)
    app.add_middleware(Observed, metrics=metrics, log=log)
    return app
