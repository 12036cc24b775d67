"""The table of statuses is total, and its names are those of HTTP."""

from grpc import StatusCode

from microtome.errors import RequestRejected, ServiceError, TemporarilyUnable, slug
from service.grpc.errors import COUNTED_AS, STATUS, described, reason
from service.http.problems import STATUS as HTTP_STATUS
from tests.unit.service.grpc.conftest import reason_of
from tests.unit.service.test_errors import leaves


def test_every_leaf_has_a_status_and_nothing_else_has() -> None:
    """A new error cannot be forgotten here."""
    assert leaves(ServiceError) == set(STATUS)


def test_names_are_those_of_http() -> None:
    """Who switches on HTTP's problem types finds the same word as the reason, and in the metrics."""
    for error in STATUS:
        assert slug(error) == reason(error).lower().replace("_", "-")
        assert slug(error).replace("-", "_").upper() == reason(error)


def test_what_may_succeed_later_has_a_status_that_says_so() -> None:
    """And what will fail again has none of those that clients try again by themselves."""
    again = {StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED, StatusCode.DEADLINE_EXCEEDED}
    for error, code in STATUS.items():
        if issubclass(error, TemporarilyUnable):
            assert code in again, error
        if issubclass(error, RequestRejected) and error.__name__ != "BodyTooSlow":
            assert code not in again, error


def test_every_status_is_counted_in_the_class_that_http_gives_it() -> None:
    """Alerts tell errors of callers (4xx) and of ours (5xx) apart by the first digit."""
    for error, code in STATUS.items():
        if error in HTTP_STATUS and error.__name__ != "BodyTooSlow":
            assert str(HTTP_STATUS[error].value)[0] == COUNTED_AS[code][0], error


def test_every_error_can_be_described() -> None:
    """With its reason, whatever its constructor takes."""
    for error in STATUS:
        made = error.__new__(error)
        made.args = ("what is wrong",)
        made.retry_after = 3  # type: ignore[attr-defined]
        made.failures = {}  # type: ignore[attr-defined]
        assert reason(error) == reason_of(described(made))
