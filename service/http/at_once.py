"""Answer what the cache has where the request was read: behind the same layers, without tasks or ASGI's messages."""

from collections.abc import Callable
from functools import partial

from starlette.responses import Response
from starlette.types import Scope

from service.errors import ServiceError
from service.http.direct import Direct
from service.http.middleware import Authentication
from service.http.observation import observation
from service.http.observed import Observed
from service.http.problems import answer_to
from service.http.raw import Write
from service.telemetry.metrics import Metrics


class AtOnce:
    """`POST /embed` for those who need no computing."""

    def __init__(
        self, path: str, direct: Direct, observed: Observed, authentication: Authentication | None, metrics: Metrics
    ) -> None:
        """Answer as `observed` over `authentication`, if keys are asked for, over `direct` would."""
        self._path = path
        self._direct = direct
        self._observed = observed
        self._authentication = authentication
        self._metrics = metrics

    def takes(self, scope: Scope) -> bool:
        """Whether a request with this head may be answered so."""
        return bool(scope["path"] == self._path and scope["method"] == "POST")

    def has_body_of(self, scope: Scope) -> bool:
        """Whether a request that goes the way of all others has its body with it, in its scope."""
        return self._direct.has_body_of(scope)

    def __call__(self, scope: Scope, body: bytes, write: Write, go_on: Callable[[], None]) -> bool:
        """Answer a request whose body has come whole, now or once the cache has been asked.

        Args:
            scope: of the request.
            body: whole.
            write: writes the answer.
            go_on: lets the request go the way of all others, once that is known.

        Returns:
            False, if it has to go there now; then neither `write` nor `go_on` is ever called.
        """
        observation(scope)
        try:
            if self._authentication:
                self._authentication.admit(scope)
            response = self._direct.at_once(scope, body)
            if response is None:
                return self._direct.soon(scope, partial(self._told, scope, write, go_on))
        except ServiceError as error:
            response = answer_to(error, self._metrics, scope)
        except Exception:  # noqa: BLE001, it will be met again on the way of all others, which knows what to do then
            return False
        return self._written(scope, response, write)

    def _told(self, scope: Scope, write: Write, go_on: Callable[[], None], response: Response | None) -> None:
        if response is None or not self._written(scope, response, write):
            go_on()

    def _written(self, scope: Scope, response: Response, write: Write) -> bool:
        if not self._direct.put(scope, response, write):
            return False
        self._direct.answered(scope)
        self._observed.ended(scope, observation(scope))
        return True
