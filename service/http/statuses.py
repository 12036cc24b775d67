"""Which HTTP status each error has. Total over the leaves of the error tree; a test proves it."""

from collections.abc import Mapping
from http import HTTPStatus

from service import errors

STATUS: Mapping[type[errors.ServiceError], HTTPStatus] = {
    errors.BadRequest: HTTPStatus.BAD_REQUEST,
    errors.UnsupportedModality: HTTPStatus.BAD_REQUEST,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.NotAcceptable: HTTPStatus.NOT_ACCEPTABLE,
    errors.BodyTooSlow: HTTPStatus.REQUEST_TIMEOUT,
    errors.UrlNotAllowed: HTTPStatus.FORBIDDEN,
    errors.UrlNotFetched: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotAnImage: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.BrokenImage: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.ImageTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.TooManyImages: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.NoImageEmbedded: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnknownModel: HTTPStatus.NOT_FOUND,
    errors.UnknownVersion: HTTPStatus.NOT_FOUND,
    errors.UnknownOutput: HTTPStatus.NOT_FOUND,
    errors.Overloaded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.ModelServerDown: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ModelNotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
    errors.ModelServerFault: HTTPStatus.BAD_GATEWAY,
}
