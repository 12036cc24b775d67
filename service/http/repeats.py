"""The same image, asked for in the same way once more: the answer that was written then, if it is still right."""

from http import HTTPStatus

from starlette.types import Scope

from microtome.manifest import ModelCard
from service.core.ports import ModelServer
from service.core.timings import Timings, timed
from service.http import access
from service.http.head import head
from service.http.raw import RawHeaders, RawResponse
from service.http.response_cache import Answered, Asked, FinishedAnswers
from service.telemetry.metrics import Metrics


class Repeats:
    """Keeps answers as they were written, and gives them again."""

    def __init__(self, models: ModelServer, answers: FinishedAnswers, metrics: Metrics) -> None:
        self._models = models
        self._answers = answers
        self._metrics = metrics

    def again(self, scope: Scope, digest: str, timings: Timings) -> RawResponse | None:
        """Return the answer given before to the same question, unless another version has come into use since.

        The request must have no options but those of its query, and no word against the cache.
        """
        if not self._answers.possible:
            return None
        asked = _asked(scope, digest)
        with timed(timings.note, "cache"):
            kept = self._answers.get(asked)
            if kept is None:
                return None
            if self._models.card(kept.card.name) is not kept.card:
                self._answers.drop(asked)
                return None
        self._metrics.answered_again(kept.card.name, timings.seconds["cache"])
        access.note(scope, images=1, model=kept.card.name)
        return RawResponse(HTTPStatus.OK, [*kept.headers, server_timing(timings)], kept.body)

    def keep(self, scope: Scope, digest: str, card: ModelCard, headers: RawHeaders, body: bytes) -> None:
        """Keep an answer that is nothing but hits of the version in use; its headers without those of one request."""
        if self._answers.possible:
            self._answers.keep(_asked(scope, digest), Answered(card, headers, body))


def server_timing(timings: Timings) -> tuple[bytes, bytes]:
    """Write the header that tells how many milliseconds each stage took."""
    stages = ", ".join([f"{name};dur={1000 * seconds:.3f}" for name, seconds in timings.seconds.items()])
    return b"server-timing", stages.encode("latin-1")


def _asked(scope: Scope, digest: str) -> Asked:
    return Asked(digest, scope["query_string"], head(scope).get(b"accept", b""))
