"""Statuses of embedding APIs: they tell a wrong key and an unknown model apart, and call all else that is wrong 400."""

from http import HTTPStatus

from service import errors
from service.http.wording import Failure

_KEPT = (errors.Unauthenticated, errors.BodyTooSlow, errors.UnknownModel, errors.UnknownVersion, errors.UnknownOutput)


def status_of(failure: Failure) -> HTTPStatus:
    """Return the status that clients of such an API expect; it decides which exception they raise."""
    rejected = isinstance(failure.error, errors.RequestRejected) and not isinstance(failure.error, _KEPT)
    return HTTPStatus.BAD_REQUEST if rejected else failure.status
