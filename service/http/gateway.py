"""The application: `POST /embed` past the framework, everything else through it.

The framework's layers and its search for a route cost more than all that a cache hit needs. It has the route all the
same: for /openapi.json, for /docs, and for the 405 of other methods. Both ways are the same endpoint behind the same
middlewares, and a test sends the same requests through both.
"""

from dataclasses import dataclass

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.at_once import AtOnce


@dataclass(frozen=True, slots=True)
class Gateway:
    """ASGI application.

    Attributes:
        framework: has all routes.
        path: of the route that goes past it when it is posted to.
        direct: answers there, authentication and logging included.
        at_once: does so without waiting where that can be, for connections that ask it first, see `connection.py`.
    """

    framework: FastAPI
    path: str
    direct: ASGIApp
    at_once: AtOnce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request, or the server's start and end."""
        if scope["type"] == "http" and scope["path"] == self.path and scope["method"] == "POST":
            await self.direct(scope, receive, send)
        else:
            await self.framework(scope, receive, send)
