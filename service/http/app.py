"""Put the HTTP application together."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import MappingProxyType

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service.auth import Keyring
from service.core.embedder import Intake
from service.http import compat, problems
from service.http.at_once import AtOnce
from service.http.bodies import BodyLimits, BodyReader
from service.http.compat.handler import Desk
from service.http.direct import Direct
from service.http.embed import PATH, EmbedEndpoint, embed_router
from service.http.gateway import Gateway
from service.http.health import Dependencies, operations_router
from service.http.middleware import Authentication
from service.http.models import models_router
from service.http.observed import Observed
from service.http.repeats import Repeats
from service.http.response_cache import FinishedAnswers
from service.http.ways import Ways
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
    """What the HTTP side needs to know beside its collaborators.

    Attributes:
        log_access: whether each request is a line of the log.
        show_metrics: whether /metrics is here; not when it has a port of its own.
        dialects: which contracts of others are spoken, as the setting says.
        answer_bytes: what answers that are kept as they were written may take; 0 keeps none.
    """

    limits: BodyLimits
    version: str
    log_access: bool = False
    show_metrics: bool = True
    dialects: str = "all"
    answer_bytes: int = 0


def http_app(  # noqa: PLR0913, collaborators
    *,
    intake: Intake,
    options: HttpOptions,
    metrics: Metrics,
    log: Logger,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    keyring: Keyring | None = None,
    dependencies: Dependencies = MappingProxyType({}),
) -> Gateway:
    """Build the application.

    Args:
        intake: the way to the core, and what is served.
        options: plain facts.
        metrics: are told what happens.
        log: likewise.
        lifespan: starts and stops what the application stands on.
        keyring: whose requests are served; None serves everybody.
        dependencies: what the gateway stands on.
    """
    # The documentation pages are served from here, not from somebody's content network: they work without internet.
    app = FastAPIOffline(
        redoc_url=None,
        static_url="/docs-assets",
        title="Microtome",
        description=_DESCRIPTION,
        version=options.version,
        lifespan=lifespan,
        # A redirect would name the host that the caller named, over http, and keys would follow it.
        redirect_slashes=False,
        # The framework's own: it would look for a provider at every request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    endpoint = EmbedEndpoint(
        intake,
        BodyReader(options.limits, intake.bodies),
        metrics,
        Repeats(intake.models, FinishedAnswers(options.answer_bytes), metrics),
        Ways(intake.default_model),
    )
    models = intake.models
    routes = embed_router(endpoint)
    app.include_router(routes, tags=["embeddings"])
    app.include_router(models_router(models, intake.default_model), tags=["models"])
    operations = operations_router(models, metrics, dependencies, show_metrics=options.show_metrics)
    app.include_router(operations, tags=["operations"])
    problems.install(app, metrics)
    open_paths = compat.install(app, compat.spoken(options.dialects), Desk(intake, endpoint.reader, metrics))
    (route,) = (route for route in routes.routes if getattr(route, "path", None) == PATH)
    direct = Direct(endpoint, app, route)
    authentication = None
    if keyring is not None:
        app.add_middleware(Authentication, keyring=keyring, metrics=metrics, open_paths=open_paths)
        authentication = Authentication(direct, keyring, metrics)
    app.add_middleware(Observed, metrics=metrics, log=log, log_access=options.log_access)
    observed = Observed(authentication or direct, metrics, log, log_access=options.log_access)
    return Gateway(app, PATH, observed, AtOnce(PATH, direct, observed, authentication, metrics))
