"""Metrics and probes on a port of their own, which operators can reach and callers cannot."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.core.ports import ModelServer
from service.http import problems
from service.http.connection_limits import bounded
from service.http.health import Dependencies, operations_router
from service.telemetry.metrics import Metrics

_HEAD_SECONDS = 10.0
"""For a request's head to come; nobody here has a reason to be slow."""


@asynccontextmanager
async def operations_server(  # noqa: PLR0913, collaborators
    models: ModelServer, metrics: Metrics, dependencies: Dependencies, *, host: str, port: int, shared: bool
) -> AsyncIterator[None]:
    """Serve /metrics, /livez and /readyz at `host:port` while the block runs.

    Args:
        models: whose readiness is asked for.
        metrics: are shown.
        dependencies: what the gateway stands on.
        host: address to listen on.
        port: likewise.
        shared: whether several workers listen there; each of them can answer for all.

    Raises:
        OSError: somebody else listens there already.
    """
    app = FastAPI(title="Microtome, operations", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(operations_router(models, metrics, dependencies))
    problems.install(app, metrics)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, reuse_port=shared) as listener:
        server = _Server(
            uvicorn.Config(
                app,
                http=bounded(HttpToolsProtocol, metrics, head_seconds=_HEAD_SECONDS),
                ws="none",
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="operations")
        try:
            yield
        finally:
            server.should_exit = True
            await serving


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the server whose requests are drained."""
        yield
