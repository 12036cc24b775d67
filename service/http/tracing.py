"""A span around every request but probes'. Imported only when traces are asked for."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.telemetry.tracing import Tracing, ended

_UNTRACED = frozenset({"/livez", "/readyz", "/metrics"})


class Traced:
    """ASGI middleware, the outermost one."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in _UNTRACED:
            await self._app(scope, receive, send)
            return
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with self._tracing.request(scope["method"], scope["path"], headers) as span:
            try:
                await self._app(scope, receive, noted)
            finally:
                ended(span, scope["method"], getattr(scope.get("route"), "path", "other"), status)
