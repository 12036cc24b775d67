"""GET /, health checks and metrics; and the server of a separate port for them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from starlette.responses import JSONResponse, Response

from service.core.intake import Intake
from service.http import problems
from service.http.connection_limits import limited_protocol, listener
from service.http.middleware import HeadAsGet, IgnoreQueryAndCookies, PageHeaders, prefix_of
from service.http.openapi import Readiness
from service.http.page import Page
from service.telemetry.metrics import Metrics, exposition_format

_HEAD_SECONDS = 10.0
"""For a request's head to arrive on the operators' port."""

Dependencies = Mapping[str, Callable[[], str | None]]
"""The gateway's dependencies by name; each returns what is wrong with it, for people, or None."""


def operations_router(
    intake: Intake,
    metrics: Metrics,
    dependencies: Dependencies,
    *,
    show_metrics: bool = True,
    page: Page | None = None,
) -> APIRouter:
    """Build the routes: GET /, the health checks and, unless they are served elsewhere, the metrics.

    With a page, GET / answers browsers with it.
    """
    router = APIRouter()

    @router.get("/", summary="Say what this is", response_model=dict[str, str])
    async def root(request: Request, response: Response) -> Response | dict[str, str]:
        """What this is, and where to go on."""
        if page and (html := page.html(request)):
            return html
        prefix = prefix_of(request.scope)
        response.headers["Vary"] = "Accept, X-Forwarded-Prefix" if page else "X-Forwarded-Prefix"
        return {
            "service": "Microtome: image embeddings from any layer of a pretrained vision backbone",
            "embed": f"POST {prefix}/embed",
            "classify": f"POST {prefix}/classify",
            "models": f"{prefix}/models",
            "docs": f"{prefix}/docs",
            **({"metrics": f"{prefix}/metrics"} if show_metrics else {}),
            "ready": f"{prefix}/readyz",
        }

    @router.get("/livez", summary="Is the process alive?")
    async def livez() -> dict[str, bool]:
        """Yes, as long as this answers. Says nothing of models: restarting the gateway mends none of them."""
        return {"live": True}

    # Load balancers and other embedding servers' clients ask one of the other two.
    @router.get("/health", include_in_schema=False)
    @router.get("/healthz", include_in_schema=False)
    @router.get(
        "/readyz", summary="Can it answer anything?", response_model=Readiness, responses={503: {"model": Readiness}}
    )
    async def readyz() -> Response:
        """Yes, while one model or the cache can, and each model that is required. `models` names those that cannot."""
        answer = Readiness(
            ready=intake.ready(),
            models=intake.troubles(),
            dependencies={name: trouble() for name, trouble in dependencies.items()},
        )
        return JSONResponse(answer.model_dump(), HTTPStatus.OK if answer.ready else HTTPStatus.SERVICE_UNAVAILABLE)

    if show_metrics:

        @router.get("/metrics", name="metrics", summary="Metrics for Prometheus", response_class=Response)
        async def exposition(request: Request) -> Response:
            """All metrics in Prometheus' text format, or in OpenMetrics' where `Accept` names it."""
            encode, content_type = exposition_format(request.headers.get("Accept", ""))
            return Response(metrics.exposition(encode), headers={"Content-Type": content_type, "Vary": "Accept"})

    return router


@asynccontextmanager
async def operations_server(  # noqa: PLR0913, collaborators
    intake: Intake, metrics: Metrics, dependencies: Dependencies, *, host: str, port: int, shared: bool
) -> AsyncIterator[None]:
    """Serve /metrics, /livez and /readyz at `host:port` while the block runs, for operators only.

    Args:
        intake: for readiness.
        metrics: to show.
        dependencies: for readiness.
        host: address to listen on.
        port: likewise.
        shared: whether several workers listen there; each of them can answer for all.

    Raises:
        OSError: the port is in use.
    """
    app = FastAPI(title="Microtome, operations", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(operations_router(intake, metrics, dependencies))
    problems.install(app, metrics)
    app.add_middleware(HeadAsGet)
    app.add_middleware(IgnoreQueryAndCookies)
    app.add_middleware(PageHeaders)
    with listener(host, port, shared=shared) as opened:
        server = _Server(
            uvicorn.Config(
                app,
                http=limited_protocol(metrics, head_seconds=_HEAD_SECONDS),
                ws="none",
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[opened]), name="operations")
        try:
            yield
        finally:
            server.should_exit = True
            await serving


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the main server, which drains its requests."""
        yield
