"""ASGI middleware: HEAD, ids, access log, metrics, API keys, traces, path prefix, browsers; and what a scope holds."""

import re
from collections.abc import Collection, Mapping
from time import perf_counter
from typing import TYPE_CHECKING

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from microtome.errors import Unauthenticated
from service.auth import Caller, Keyring, key_in
from service.core.timings import Timings
from service.http.problems import problem_response, unexpected_response
from service.telemetry.logs import Logger, request_id
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from service.telemetry.tracing import Tracing

PROBES = frozenset({"/livez", "/readyz", "/health", "/healthz"})
"""Paths of health checks."""

PUBLIC = PROBES | {"/", "/docs", "/openapi.json"}
"""Paths that need no API key."""

ASSETS = "/docs-assets"
"""Path of the scripts and styles of /docs."""

_PUBLIC_PREFIX = f"{ASSETS}/"
_UNTRACED = PROBES | {"/metrics"}

ROUTES = frozenset(
    {
        *("classify", "docs", "docs-assets", "embed", "health", "healthz", "livez", "metrics", "models"),
        *("openapi.json", "readyz"),
        *(".well-known", "embeddings", "meta", "v1", "v2", "vectorize", "vectors"),
    }
)
"""First segments of all routes: no path prefix may begin with one of them."""

PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]+)+")
"""A path prefix: segments of unreserved characters, such as /api/images."""

_MAX_PREFIX = 200

_PREFIX = "microtome.prefix"
_HEADERS = "microtome.headers"
_FACTS = "microtome.facts"
_CALLER = "microtome.caller"

_POLICY = b"content-security-policy"
_NOTHING_LOADED = (_POLICY, b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
_PAGE_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))

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


def prefix_of(scope: Scope) -> str:
    """Return the path below which the caller sees the gateway: the setting's, else that of `X-Forwarded-Prefix`.

    For addresses in the answer only. Any caller can send the header: it never decides which route answers, nor whether
    a key is needed, and what is answered to it has `Vary: X-Forwarded-Prefix`.
    """
    stated: str | None = scope.get(_PREFIX)
    if stated is not None:
        return stated
    # Each of several proxies adds its own.
    parts = headers_of(scope).get(b"x-forwarded-prefix", b"").decode("latin-1").split(",")
    joined = "".join(part.strip().rstrip("/") for part in parts)
    return joined if len(joined) <= _MAX_PREFIX and PREFIX.fullmatch(joined) else ""


def note(scope: Scope, **facts: object) -> None:
    """Add facts to the request's line in the access log: names, counts, durations; never a secret or a body.

    `stages` is a mapping of seconds by name, which may be filled later.
    """
    scope[_FACTS].update(facts)


def server_timing(timings: Timings) -> tuple[bytes, bytes]:
    """Write the Server-Timing header: milliseconds of each stage."""
    stages = ", ".join([f"{name};dur={1000 * seconds:.3f}" for name, seconds in timings.seconds.items()])
    return b"server-timing", stages.encode("latin-1")


class RequestRecord:
    """What is known of a request while it is served.

    Attributes:
        id: the caller's `X-Request-ID` or a new one; the response carries it as `id_header`.
        status: of the response; 0 before it is sent.
    """

    __slots__ = ("facts", "id", "id_header", "start", "status")

    def __init__(self, scope: Scope) -> None:
        self.start = perf_counter()
        self.status = 0
        self.facts: dict[str, object] = {}
        scope[_FACTS] = self.facts
        self.id = request_id(headers_of(scope).get(b"x-request-id", b"").decode("latin-1"))
        self.id_header = (b"x-request-id", self.id.encode("ascii"))
        structlog.contextvars.bind_contextvars(request_id=self.id)


class RequestLog:
    """Counts, times and logs requests, unexpected errors included."""

    def __init__(self, metrics: Metrics, log: Logger, *, log_access: bool = False) -> None:
        self._metrics = metrics
        self._log = log
        self._log_access = log_access

    def unexpected(self, scope: Scope, record: RequestRecord) -> Response:
        """Log the present exception, and build its response: the log gets all of it, the caller only the id."""
        self._log.exception("unexpected_error", path=scope["path"])
        self._metrics.errors.labels("internal-error").inc()
        return unexpected_response(record.id, scope)

    def ended(self, scope: Scope, record: RequestRecord) -> None:
        """Count and log a request that has been answered."""
        # The route's template, not the path: callers must not be able to add label values.
        route = getattr(scope.get("route"), "path", "other")
        seconds = perf_counter() - record.start
        self._metrics.request_answered(route, record.status, seconds)
        if self._log_access:
            self._log.info(
                "request",
                request_id=record.id,
                method=scope["method"],
                route=route,
                status=record.status,
                ms=round(1000 * seconds, 2),
                **_flattened(record.facts),
            )


class PathPrefix:
    """Outermost middleware, only with a path prefix set: takes it off the path of each request that has it."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; a proxy may have taken the prefix off already."""
        if scope["type"] == "http":
            scope[_PREFIX] = self._prefix
            path = scope["path"].removeprefix(self._prefix)
            if not path or path.startswith("/"):
                scope["path"] = path or "/"
        await self._app(scope, receive, send)


class PageHeaders:
    """Outermost middleware of FastAPI's routes: a browser shows what they answer as nothing but itself.

    An answer loads and runs nothing, unless it brings a policy of its own. It is not framed, nor taken for another
    type, and links that lead away do not tell from where.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def send_page(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                own = any(name == _POLICY for name, _ in headers)
                message["headers"] = [*headers, *_PAGE_HEADERS, *(() if own else (_NOTHING_LOADED,))]
            await send(message)

        await self._app(scope, receive, send_page if scope["type"] == "http" else send)


class HeadAsGet:
    """Innermost middleware: answers HEAD like GET, without the body (RFC 9110 section 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        # A copy, since the server's own scope tells it to send no body.
        asked = {**scope, "method": "GET"}
        try:
            await self._app(asked, receive, send_head)
        finally:
            scope["route"] = asked.get("route")


class IgnoreQueryAndCookies:
    """Middleware of FastAPI's applications, which take both apart for each route, although none here reads them.

    Python before 3.12.6 takes 12 s for a quoted cookie of 32 kB, and 4 times as long for one of 64 (CVE-2024-7592).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            scope["query_string"] = b""
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"cookie"]
        await self._app(scope, receive, send)


class RecordRequests:
    """Outermost middleware of FastAPI's routes: an id for each request, and a response to unexpected errors."""

    def __init__(self, app: ASGIApp, request_log: RequestLog) -> None:
        self._app = app
        self._request_log = request_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(scope)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), record.id_header]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            response = self._request_log.unexpected(scope, record)
            if record.status:
                raise
            await response(scope, receive, send_with_id)
        finally:
            self._request_log.ended(scope, record)


def _flattened(facts: Mapping[str, object]) -> dict[str, object]:
    """Return the facts with each stage as one of its own, in milliseconds: `decode_ms`."""
    flat = dict(facts)
    stages = flat.pop("stages", {})
    if isinstance(stages, Mapping):
        flat |= {f"{name}_ms": round(1000 * seconds, 2) for name, seconds in stages.items()}
    return flat


class Authentication:
    """Identify callers by their API keys; `caller_of` returns the owner.

    Args:
        keyring: the known keys.
        metrics: count requests by key name.
    """

    def __init__(self, keyring: Keyring, metrics: Metrics) -> None:
        self._keyring = keyring
        self._metrics = metrics

    def identify(self, scope: Scope) -> None:
        """Find out who the caller is.

        Raises:
            Unauthenticated: no key, or an unknown one.
        """
        headers = headers_of(scope)
        given = headers.get(b"x-api-key")
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        caller = self._keyring.identify(key_in(authorization, None if given is None else given.decode("latin-1")))
        scope[_CALLER] = caller
        self._metrics.key_used(caller.name)
        note(scope, key=caller.name)


class RequireKey:
    """Middleware that requires an API key on every route except docs and health checks.

    Args:
        app: the next ASGI application.
        authentication: identifies callers.
        metrics: count errors.
        public_paths: further paths that need no key, such as other systems' health checks.
    """

    def __init__(
        self, app: ASGIApp, authentication: Authentication, metrics: Metrics, public_paths: Collection[str] = ()
    ) -> None:
        self._app = app
        self._authentication = authentication
        self._metrics = metrics
        self._public = PUBLIC.union(public_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and not self._is_public(scope["path"]):
            try:
                self._authentication.identify(scope)
            except Unauthenticated as error:
                await problem_response(error, self._metrics, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_public(self, path: str) -> bool:
        return path in self._public or path.startswith(_PUBLIC_PREFIX)


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
                ended(getattr(scope.get("route"), "path", "other"), status, scope.get(_FACTS, {}))
