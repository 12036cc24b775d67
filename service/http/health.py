"""What operators ask: is it alive, is it ready, what does it count; and GET /, for whoever comes by."""

from collections.abc import Callable, Mapping
from http import HTTPStatus

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from service.core.ports import ModelServer
from service.http.schemas import Readiness
from service.telemetry.metrics import CONTENT_TYPE, Metrics

Dependencies = Mapping[str, Callable[[], str | None]]
"""What the gateway stands on, by name; each says what is wrong with it, for people, or None."""


def operations_router(
    models: ModelServer, metrics: Metrics, dependencies: Dependencies, *, show_metrics: bool = True
) -> APIRouter:
    """Build the routes over the catalogue, what it stands on and, unless they are shown elsewhere, the metrics."""
    router = APIRouter()

    @router.get("/", summary="Say what this is")
    async def root() -> dict[str, str]:
        """What this is, and where to go on."""
        return {
            "service": "Microtome: image embeddings from any layer of a pretrained vision backbone",
            "embed": "POST /embed",
            "models": "/models",
            "docs": "/docs",
            **({"metrics": "/metrics"} if show_metrics else {}),
            "ready": "/readyz",
        }

    @router.get("/livez", summary="Is the process alive?")
    async def livez() -> dict[str, bool]:
        """Yes, as long as this answers. Says nothing of models: restarting the gateway mends none of them."""
        return {"live": True}

    @router.get("/readyz", summary="Can it embed?", response_model=Readiness, responses={503: {"model": Readiness}})
    async def readyz() -> Response:
        """Yes, when an inference has recently worked for every model. A cache that is down makes nothing unready."""
        found = models.readiness()
        answer = Readiness(
            ready=all(trouble is None for trouble in found.values()),
            models=dict(found),
            dependencies={name: trouble() for name, trouble in dependencies.items()},
        )
        return JSONResponse(answer.model_dump(), HTTPStatus.OK if answer.ready else HTTPStatus.SERVICE_UNAVAILABLE)

    if show_metrics:
        router.include_router(metrics_router(metrics))
    return router


def metrics_router(metrics: Metrics) -> APIRouter:
    """Build the route over the metrics."""
    router = APIRouter()

    @router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def exposition() -> Response:
        """All metrics in Prometheus' text format."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    return router
