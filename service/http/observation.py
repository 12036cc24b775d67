"""One request as metrics and log are told it, from whichever side it is answered."""

from time import perf_counter

from starlette.types import Scope

from service.http import access
from service.http.head import head
from service.telemetry.logs import request_id

_OBSERVATION = "microtome.observation"


class Observation:
    """A request's id, its beginning, and the status that it is answered with, 0 until then.

    The id is the caller's `X-Request-ID` or a new one; the answer carries it as `id_header`.
    """

    __slots__ = ("facts", "id", "id_header", "start", "status")

    def __init__(self, scope: Scope) -> None:
        """Begin now."""
        self.id = request_id(head(scope).get(b"x-request-id", b"").decode("latin-1"))
        self.id_header = (b"x-request-id", self.id.encode("ascii"))
        self.facts = access.begin(scope)
        self.start = perf_counter()
        self.status = 0


def observation(scope: Scope) -> Observation:
    """Return the observation of a request, which begins when it is first asked for."""
    found: Observation | None = scope.get(_OBSERVATION)
    if found is None:
        found = scope[_OBSERVATION] = Observation(scope)
    return found
