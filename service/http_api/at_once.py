"""Answer what needs no waiting where the request was read: behind the same layers, without tasks or ASGI's messages."""

from starlette.types import Scope

from service.errors import ServiceError
from service.http_api.authentication import Authentication
from service.http_api.direct import Direct
from service.http_api.observation import observation
from service.http_api.observed import Observed
from service.http_api.problems import answer_to
from service.http_api.raw import Whole, whole
from service.telemetry.metrics import Metrics


class AtOnce:
    """`POST /embed` for those who can be answered at once."""

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

    def __call__(self, scope: Scope, body: bytes) -> Whole | None:
        """Answer a request whose body has come whole; None if it has to go the way of all others."""
        request = observation(scope)
        try:
            if self._authentication:
                self._authentication.admit(scope)
            response = self._direct.at_once(scope, body)
        except ServiceError as error:
            response = answer_to(error, self._metrics, scope)
        except Exception:  # noqa: BLE001, it will be met again on the way of all others, which knows what to do then
            return None
        if response is None:
            return None
        request.status = response.status_code
        self._observed.ended(scope, request)
        return whole(response, request.id_header)
