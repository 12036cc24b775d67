"""Group images into requests, and handle requests that are refused as a whole.

The generator yields the bodies of a request and is sent its result: it does no I/O, so both clients drive it.
"""

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

from microtome.client import errors
from microtome.client.results import BatchResult, Outcome

Sending: TypeAlias = Generator[list[bytes], BatchResult | errors.MicrotomeError, list[Outcome]]

CONCERNS_THE_CALL = (
    errors.BadRequest,
    errors.Unauthenticated,
    errors.NotAcceptable,
    errors.UnknownModel,
    errors.UnknownVersion,
    errors.UnknownOutput,
    errors.UnexpectedAnswer,
)
"""Errors that every image would meet: they are raised instead of repeated for each image."""

_MAY_BE_ONE = (errors.ImageTooLarge, errors.TooManyImages, errors.ModelServerFault, errors.InternalError)
"""Refusals of a whole request that one image, or their number, may have caused: each image is sent again alone."""


def sending(images: Sequence[Any], bodies: Sequence[bytes | errors.MicrotomeError]) -> Sending:
    """Send images as one request, then send those that failed again alone.

    Args:
        images: the images as the caller passed them.
        bodies: the result of `encode_all`.

    Returns:
        their outcomes, in order.

    Raises:
        MicrotomeError: an error of the call as a whole.
    """
    results: list[Outcome] = [
        Outcome(image, error=body if isinstance(body, errors.MicrotomeError) else None)
        for image, body in zip(images, bodies, strict=True)
    ]
    sound = [(place, body) for place, body in enumerate(bodies) if isinstance(body, bytes)]
    waiting = [sound] if sound else []
    while waiting:
        group = waiting.pop(0)
        result = yield [body for _, body in group]
        if isinstance(result, errors.MicrotomeError):
            if isinstance(result, CONCERNS_THE_CALL):
                raise result
            if len(group) > 1 and isinstance(result, _MAY_BE_ONE):
                waiting += [[one] for one in group]
                continue
            failures = result.failures if isinstance(result, errors.NoImageEmbedded) else {}
            result = BatchResult(None, [failures.get(number, result) for number in range(len(group))])
        for one, found in zip(group, result.results, strict=True):
            place = one[0]
            if isinstance(found, errors.MicrotomeError):
                # The cause may be another image of the group, or temporary.
                if isinstance(found, errors.TemporarilyUnable | errors.NoImageEmbedded) and len(group) > 1:
                    waiting.append([one])
                results[place] = Outcome(images[place], error=found)
            else:
                results[place] = Outcome(images[place], vectors=found, model=result.model)
    return results
