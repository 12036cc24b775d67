"""Build the HTTP application, and its routes GET /models: what is served, each model in its own words."""

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, Field
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from microtome.manifest import ModelCard
from service.auth import Keyring
from service.core.intake import Intake
from service.core.ports import Family, ModelServer, only
from service.errors import of_model
from service.http import compat, openapi, problems
from service.http.bodies import BodyLimits, BodyReader
from service.http.compat.handler import CompatHandler
from service.http.embed import CLASSIFY_PATH, PATH, ClassifyEndpoint, EmbedEndpoint
from service.http.health import Dependencies, operations_router
from service.http.middleware import (
    PAGE_FILES,
    PUBLIC,
    Authentication,
    HeadAsGet,
    IgnoreQueryAndCookies,
    PageHeaders,
    PathPrefix,
    RecordRequests,
    RequestLog,
    RequestTracing,
    RequireKey,
)
from service.http.openapi import FamilyAnswer, ModelAnswer, ModelsAnswer, TowerAnswer
from service.http.page import Page
from service.http.response_cache import ResponseCache
from service.http.responses import tower_of
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from service.telemetry.tracing import Tracing

_EXPOSED = (
    *("X-Model", "X-Model-Version", "X-Fingerprint", "X-Cache", "X-Shape", "X-Dtype", "X-Output", "X-Index"),
    *("X-Tower", "X-Space"),
    *("X-Errors", "X-Request-ID", "Server-Timing", "Retry-After", "Metadata", "Inference-Header-Content-Length"),
)
"""Headers of responses that pages of other origins may read."""

_DESCRIPTION = """
Image embeddings from any layer of a pretrained vision backbone.

Try `POST /embed` below with a photo, or:

    curl --data-binary @photo.jpg http://localhost:8000/embed
    curl --data-binary @photo.jpg http://localhost:8000/classify

Errors are problem details (RFC 9457); switch on their `type`.
"""


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Static configuration of the HTTP application.

    Attributes:
        log_access: whether each request is logged.
        show_metrics: whether /metrics is served; false when it has a port of its own.
        dialects: the contracts of other systems to serve, as the setting has them.
        response_cache_bytes: memory for written responses; 0 switches the response cache off.
        path_prefix: the path below which a proxy shows the gateway, such as /api/images; empty for none.
        cors_origins: origins whose pages may call, or `*`; empty for none.
        page: whether browsers get a page at /.
    """

    limits: BodyLimits
    version: str
    log_access: bool = False
    show_metrics: bool = True
    dialects: str = "all"
    response_cache_bytes: int = 0
    path_prefix: str = ""
    cors_origins: Collection[str] = ()
    page: bool = False


def http_app(  # noqa: PLR0913, collaborators
    *,
    intake: Intake,
    options: HttpOptions,
    metrics: Metrics,
    log: Logger,
    keyring: Keyring | None = None,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
    dependencies: Dependencies = MappingProxyType({}),
    tracing: "Tracing | None" = None,
) -> ASGIApp:
    """Build the application.

    Args:
        intake: the way to the core.
        options: static configuration.
        metrics: registry.
        log: logger.
        keyring: the API keys; None serves all callers.
        lifespan: for servers that run one; `python -m service` has its own.
        dependencies: reported by /readyz.
        tracing: makes a span of each request; None traces nothing.
    """
    app = FastAPI(
        openapi_url=None,
        title="Microtome",
        # Names of functions in generated clients.
        generate_unique_id_function=lambda route: route.name,
        description=_DESCRIPTION,
        version=options.version,
        lifespan=lifespan,
        # A redirect would go to the caller's Host header over http, and API keys would follow it.
        redirect_slashes=False,
        # FastAPI's own telemetry looks for a provider at every request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    reader = BodyReader(options.limits, intake.bodies)
    embed, classify = embed_router(), classify_router()
    app.include_router(embed, tags=["embeddings"])
    app.include_router(classify, tags=["classes"])
    app.include_router(models_router(intake.models, intake.default_model), tags=["models"])
    page = Page() if options.page else None
    operations = operations_router(intake, metrics, dependencies, show_metrics=options.show_metrics, page=page)
    app.include_router(operations, tags=["operations"])
    problems.install(app, metrics)
    public_paths = compat.install(app, compat.spoken(options.dialects), CompatHandler(intake, reader, metrics))
    if page:
        page.install(app)
        public_paths = {*public_paths, *PAGE_FILES}
    request_log = RequestLog(metrics, log, log_access=options.log_access)
    authentication = Authentication(keyring, metrics) if keyring else None
    openapi.install(app, PUBLIC.union(public_paths) if authentication else None)
    # The last one added is the outermost.
    app.add_middleware(HeadAsGet)
    if authentication:
        app.add_middleware(RequireKey, authentication=authentication, metrics=metrics, public_paths=public_paths)
    app.add_middleware(RecordRequests, request_log=request_log)
    app.add_middleware(IgnoreQueryAndCookies)
    app.add_middleware(PageHeaders)
    served: ASGIApp = app
    responses = ResponseCache(intake.models, metrics, options.response_cache_bytes)
    # The last one is asked first.
    for endpoint, route in ((ClassifyEndpoint, classify.routes[0]), (EmbedEndpoint, embed.routes[0])):
        served = endpoint(
            served,
            route=route,
            intake=intake,
            reader=reader,
            responses=responses,
            metrics=metrics,
            request_log=request_log,
            authentication=authentication,
        )
    if tracing:
        served = RequestTracing(served, tracing)
    if options.cors_origins:
        # API keys travel in headers: no cookie, so no credentials.
        served = CORSMiddleware(
            served,
            allow_origins=options.cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
    return PathPrefix(served, options.path_prefix) if options.path_prefix else served


def embed_router() -> APIRouter:
    """Build the route that documents POST /embed, and answers 405 to other methods; `EmbedEndpoint` answers before."""
    router = APIRouter()

    @router.post(
        PATH,
        summary="Embed images and texts",
        response_model=openapi.EmbedAnswer,
        responses=openapi.EMBED_RESPONSES,
        openapi_extra=openapi.EMBED_REQUEST,
    )
    async def embed() -> None:
        """Turn images into vectors: one image as the body, several as file parts of a form, or JSON.

        Every vector of an answer comes from the same version of the same model, which the answer names. The answer's
        form is chosen by `Accept`; options may stand in the query string or in the JSON body.

        JSON may hold texts too, for a model of images and text: name its family, and each item goes to its tower. Both
        towers of an answer have one space, so that all of its vectors can be compared.
        """

    return router


def classify_router() -> APIRouter:
    """Build the route that documents POST /classify, and answers 405 to other methods."""
    router = APIRouter()

    @router.post(
        CLASSIFY_PATH,
        summary="Classify images",
        response_model=openapi.ClassifyAnswer,
        responses=openapi.CLASSIFY_RESPONSES,
        openapi_extra=openapi.CLASSIFY_REQUEST,
    )
    async def classify() -> None:
        """Name what images show: every form of body that POST /embed takes, and labels with scores, the best first.

        Of the outputs asked for, those with classes are answered with labels, and the others with vectors: one pass of
        the network gives both.
        """

    return router


class VersionAnswer(BaseModel):
    """One version of a model, as the model server tells of it."""

    version: int
    state: str = Field(description="`start`, `loading`, `available`, `unloading`, `end` or `unknown`.")
    in_use: bool = Field(description="Whether requests that name no version go here.")


class ModelDetail(ModelAnswer):
    """One model with all its versions."""

    versions: list[VersionAnswer] = Field(
        description="Newest first; any that is `available` can be asked for by `version`. Empty while the model server "
        "cannot be reached."
    )


def models_router(models: ModelServer, default_model: str) -> APIRouter:
    """Build the routes over the catalogue of models."""
    router = APIRouter(responses=openapi.problems(401))

    @router.get("/models", summary="List the models")
    async def list_models() -> ModelsAnswer:
        """Every model served here: its version in use, its outputs, and what is done to an image first."""
        readiness, cards = models.readiness(), models.cards()
        return ModelsAnswer(
            default=default_model or only(models),
            models=[_answer(models, name, card, readiness[name]) for name, card in cards.items()],
            families=[_family(name, family) for name, family in models.families().items()],
        )

    @router.get("/models/{name}", summary="Describe a model", responses=openapi.problems(404))
    async def describe_model(name: str) -> ModelDetail | FamilyAnswer:
        """One model: its state, its versions, and of the one in use the outputs and what is done to an image first.

        Of a family, the versions in use of its towers.
        """
        if family := models.families().get(name):
            return _family(name, family)
        card = of_model(name, models.cards())
        versions = [
            VersionAnswer(version=number, state=state, in_use=card is not None and card.version == number)
            for number, state in sorted(models.versions(name).items(), reverse=True)
        ]
        return ModelDetail(**dict(_answer(models, name, card, models.readiness()[name])), versions=versions)

    return router


def _family(name: str, family: Family) -> FamilyAnswer:
    towers = [TowerAnswer.model_validate(tower_of(card)) for card in (family.towers.cards if family.towers else ())]
    return FamilyAnswer(name=name, ready=family.trouble is None, detail=family.trouble, towers=towers)


def _answer(models: ModelServer, name: str, card: ModelCard | None, trouble: str | None) -> ModelAnswer:
    return ModelAnswer(
        name=name,
        ready=trouble is None,
        detail=trouble,
        family=card.manifest.family if card else None,
        tower=card.manifest.tower if card and card.manifest.family else None,
        space=card.manifest.space if card else None,
        version=card.version if card else None,
        engines=list(models.engines(card)) if card else [],
        outputs=[
            openapi.OutputAnswer(
                name=output.name,
                kind=output.kind or ("embedding" if len(output.shape) == 1 else "map"),
                shape=list(output.shape),
                labels=len(output.classes) or None,
                names=[label.name for label in output.labels or ()] if output.kind == "numbers" else None,
                units=list(output.units) if output.units else None,
            )
            for output in (card.outputs.values() if card else ())
        ],
        manifest=card.manifest if card else None,
    )
