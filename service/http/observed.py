"""The outermost layer of every request: an id, a count, a duration, and an answer even when something broke."""

from time import perf_counter

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http import access
from service.http.observation import Observation, observation
from service.http.problems import unexpected
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics


class Observed:
    """ASGI middleware. A request's id is the caller's `X-Request-ID` or a new one; the answer carries it."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: Logger, *, log_access: bool = False) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log
        self._log_access = log_access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = observation(scope)
        structlog.contextvars.bind_contextvars(request_id=request.id)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                # Not into the list that came: it may be an answer's that is kept.
                message["headers"] = [*message.get("headers", ()), request.id_header]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:
            # The one place where an unforeseen error ends: all of it into the log, none of it to the caller.
            self._log.exception("unexpected_error", path=scope["path"])
            self._metrics.errors.labels("internal-error").inc()
            if request.status:
                raise
            await unexpected(request.id, scope)(scope, receive, noted)
        finally:
            self.ended(scope, request)

    def ended(self, scope: Scope, request: Observation) -> None:
        """Count a request that has been answered, and log it."""
        # The route's template, never the path: labels stay few whatever callers ask for.
        route = getattr(scope.get("route"), "path", "other")
        seconds = perf_counter() - request.start
        self._metrics.request_answered(route, request.status, seconds)
        if self._log_access:
            self._log.info(
                "request",
                request_id=request.id,
                method=scope["method"],
                route=route,
                status=request.status,
                ms=round(1000 * seconds, 2),
                **access.as_logged(request.facts),
            )
