"""Every request has to say who it comes from, but for the pages that say what this is and whether it lives."""

from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from service.auth import Keyring, key_in
from service.errors import Unauthenticated
from service.http.access import note
from service.http.head import head
from service.http.problems import answer_to
from service.telemetry.metrics import Metrics

OPEN = frozenset({"/", "/livez", "/readyz", "/docs", "/openapi.json"})
_OPEN_BELOW = "/docs-assets/"

_CALLER = "microtome.caller"


class Authentication:
    """ASGI middleware over a keyring. What follows finds the caller in the scope, as `microtome.caller`.

    Args:
        app: answers whoever has a key.
        keyring: the keys.
        metrics: are told whose requests come.
        open_paths: what other contracts ask before they could have a key, beside our own such pages.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, metrics: Metrics, open_paths: Collection[str] = ()) -> None:
        self._app = app
        self._open = OPEN.union(open_paths)
        self._keyring = keyring
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in self._open or scope["path"].startswith(_OPEN_BELOW):
            await self._app(scope, receive, send)
            return
        try:
            if _CALLER not in scope:
                self.admit(scope)
        except Unauthenticated as error:
            await answer_to(error, self._metrics, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def admit(self, scope: Scope) -> None:
        """Find out who asks.

        Raises:
            Unauthenticated: nobody whom we know.
        """
        headers = head(scope)
        given = headers.get(b"x-api-key")
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        caller = self._keyring.identify(key_in(authorization, None if given is None else given.decode("latin-1")))
        scope[_CALLER] = caller
        self._metrics.key_used(caller.name)
        note(scope, key=caller.name)
