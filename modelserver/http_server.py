"""The HTTP port: the REST API and the metrics, behind uvicorn on the loop that everything else runs on."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import uvicorn

from modelserver.listening import CannotListen
from modelserver.metrics import Metrics
from modelserver.rest_api import Answer, RestApi

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class HttpApp:
    """An ASGI application.

    Args:
        rest_api: Answers what is under ``/v1/``.
        metrics: What is offered at ``metrics_path``.
        metrics_path: Where; None for nowhere.
    """

    def __init__(self, rest_api: RestApi, metrics: Metrics, metrics_path: str | None) -> None:
        self._rest_api = rest_api
        self._metrics = metrics
        self._metrics_path = metrics_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call. Bodies are not read: nothing that is offered has one."""
        del receive
        answer = self._answer(scope["method"], scope["path"])
        headers = [(b"content-type", answer.media_type.encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else answer.body.encode()
        await send({"type": "http.response.body", "body": body})

    def _answer(self, method: str, path: str) -> Answer:
        if path == self._metrics_path:
            return Answer(200, self._metrics.page(), "text/plain")
        if path.lower().startswith("/v1/"):
            return self._rest_api.answer(method, path)
        return Answer(404, '{ "error": "Not Found" }')


class _WithoutSignals(uvicorn.Server):
    """A server that leaves signals to us: gRPC stops by the same ones."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class HttpServer:
    """One HTTP port, opened by ``start`` and closed by ``stop``."""

    def __init__(self, app: HttpApp, host: str, port: int) -> None:
        self._address = (host, port)
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, access_log=False, server_header=False, ws="none",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = _WithoutSignals(config)
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> str:
        """Begin to listen.

        Returns:
            The address, for people.

        Raises:
            CannotListen: The port cannot be had.
        """
        host, port = self._address
        try:
            listener = socket.create_server(self._address, family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            raise CannotListen(f"Cannot listen on {host}:{port}: {error.strerror}") from error
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        return f"http://{host}:{port}"

    async def stop(self) -> None:
        """Close the port once what is under way is answered."""
        if self._serving:
            self._server.should_exit = True
            await self._serving
