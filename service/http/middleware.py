"""ASGI middleware around every route: request ids, access log, metrics, API keys and traces; and what a scope holds."""

from collections.abc import Collection, Mapping
from time import perf_counter
from typing import TYPE_CHECKING

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.auth import Caller, Keyring, key_in
from service.errors import Unauthenticated
from service.http.problems import problem_response, unexpected_response
from service.telemetry.logs import Logger, request_id
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from service.telemetry.tracing import Tracing

PUBLIC = frozenset({"/", "/livez", "/readyz", "/docs", "/openapi.json"})
"""Paths that need no API key."""

_PUBLIC_PREFIX = "/docs-assets/"
_UNTRACED = frozenset({"/livez", "/readyz", "/metrics"})

_HEADERS = "microtome.headers"
_FACTS = "microtome.facts"
_CALLER = "microtome.caller"

_LISTS = frozenset({b"accept", b"cache-control"})
"""Headers that are lists, which a proxy may spread over several lines; joined by commas they mean the same."""


def headers_of(scope: Scope) -> Mapping[bytes, bytes]:
    """Return a request's headers by lower-case name; read once, kept in the scope.

    Of a repeated header the first counts, as in Starlette; lists are joined (RFC 9110 section 5.3).
    """
    found: dict[bytes, bytes] | None = scope.get(_HEADERS)
    if found is None:
        headers = scope["headers"]
        found = scope[_HEADERS] = dict(reversed(headers))
        if len(found) != len(headers):
            found |= {name: b", ".join([v for n, v in headers if n == name]) for name in _LISTS & found.keys()}
    return found


def caller_of(scope: Scope) -> Caller | None:
    """Return the owner of the request's API key; None where no keys are configured."""
    return scope.get(_CALLER)


def note(scope: Scope, **facts: object) -> None:
    """Add facts to the request's line in the access log: names, counts, durations; never a secret or a body.

    `stages` is a mapping of seconds by name, which may be filled later.
    """
    scope[_FACTS].update(facts)


class RequestLog:
    """Outermost middleware: gives each request an id, counts, times and logs it, and answers unexpected errors.

    The id is the caller's `X-Request-ID` or a new one; the response carries it.
    """

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
        start = perf_counter()
        status = 0
        facts: dict[str, object] = {}
        scope[_FACTS] = facts
        identity = request_id(headers_of(scope).get(b"x-request-id", b"").decode("latin-1"))
        structlog.contextvars.bind_contextvars(request_id=identity)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # A new list: the original may belong to a cached response.
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", identity.encode("ascii"))]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            # The log gets the whole error, the caller none of it.
            self._log.exception("unexpected_error", path=scope["path"])
            self._metrics.errors.labels("internal-error").inc()
            if status:
                raise
            await unexpected_response(identity, scope)(scope, receive, send_with_id)
        finally:
            # The route's template, not the path: callers must not be able to add label values.
            route = getattr(scope.get("route"), "path", "other")
            seconds = perf_counter() - start
            self._metrics.request_answered(route, status, seconds)
            if self._log_access:
                self._log.info(
                    "request",
                    request_id=identity,
                    method=scope["method"],
                    route=route,
                    status=status,
                    ms=round(1000 * seconds, 2),
                    **_flattened(facts),
                )


def _flattened(facts: Mapping[str, object]) -> dict[str, object]:
    """Return the facts with each stage as one of its own, in milliseconds: `decode_ms`."""
    flat = dict(facts)
    stages = flat.pop("stages", {})
    if isinstance(stages, Mapping):
        flat |= {f"{name}_ms": round(1000 * seconds, 2) for name, seconds in stages.items()}
    return flat


class Authentication:
    """Require an API key on every route except docs and health checks. `caller_of` returns its owner.

    Args:
        app: the next ASGI application.
        keyring: the known keys.
        metrics: count requests by key name.
        public_paths: further paths that need no key, such as other systems' health checks.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, metrics: Metrics, public_paths: Collection[str] = ()) -> None:
        self._app = app
        self._public = PUBLIC.union(public_paths)
        self._keyring = keyring
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and not self._is_public(scope["path"]):
            try:
                self._identify(scope)
            except Unauthenticated as error:
                await problem_response(error, self._metrics, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_public(self, path: str) -> bool:
        return path in self._public or path.startswith(_PUBLIC_PREFIX)

    def _identify(self, scope: Scope) -> None:
        headers = headers_of(scope)
        given = headers.get(b"x-api-key")
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        caller = self._keyring.identify(key_in(authorization, None if given is None else given.decode("latin-1")))
        scope[_CALLER] = caller
        self._metrics.key_used(caller.name)
        note(scope, key=caller.name)


class RequestTracing:
    """A span around every request except health checks and metrics. Used only when traces are configured."""

    def __init__(self, app: ASGIApp, tracing: "Tracing") -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in _UNTRACED:
            await self._app(scope, receive, send)
            return
        status = 0

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with self._tracing.request(scope["method"], scope["path"], headers) as ended:
            try:
                await self._app(scope, receive, send_noting_status)
            finally:
                ended(getattr(scope.get("route"), "path", "other"), status)
