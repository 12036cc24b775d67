"""Whose words an error is told in: problem details, or those of the contract that answers at the request's path."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.types import Scope

from service.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Failure:
    """What a request failed with, before anybody has worded it.

    Attributes:
        status: as `statuses.STATUS` has it.
        kind: the error's name, such as `model-server-down`; of routing `not-found`; of what nobody foresaw
            `internal-error`.
        detail: for the caller: what was expected, what came, what to do.
        headers: of the answer, such as Retry-After.
        error: of the tree, None for what routing and defects say.
        members: what problem details have beside that.
    """

    status: HTTPStatus
    kind: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    error: ServiceError | None = None
    members: Mapping[str, object] = field(default_factory=dict)


Wording = Callable[[Failure], Response]
"""Writes a failure as the answer of one contract."""


class Wordings:
    """Which wording answers at which path.

    Args:
        table: paths, each with its wording. A path that ends with a slash stands for all below it, and the longest
            that fits wins.
    """

    def __init__(self, table: Iterable[tuple[str, Wording]]) -> None:
        self._by_path = dict(table)
        self._below = [path for path in self._by_path if path.endswith("/")]

    def at(self, path: str) -> Wording | None:
        """Return the wording for a path; None means problem details."""
        if path in self._by_path:
            return self._by_path[path]
        below = [known for known in self._below if path.startswith(known)]
        return self._by_path[max(below, key=len)] if below else None


def install(app: Starlette, wordings: Wordings) -> None:
    """Let these wordings answer for the failures of an application, its middlewares' included."""
    app.state.wordings = wordings


def wording_for(scope: Scope) -> Wording | None:
    """Return in whose words a failing request is answered; None means problem details. Costs successes nothing."""
    state = getattr(scope.get("app"), "state", None)
    wordings: Wordings | None = getattr(state, "wordings", None)
    return wordings.at(scope["path"]) if wordings else None
