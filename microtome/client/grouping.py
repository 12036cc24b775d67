"""Several images in one request, so that each costs less; and what to do when the request as a whole is refused.

A generator that yields what has to be sent and is sent what came of it: it does no I/O, so both clients drive it.
"""

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

from microtome.client import errors
from microtome.client.outcomes import Answer, Outcome

Sending: TypeAlias = Generator[list[bytes], Answer | errors.MicrotomeError, list[Outcome]]

CONCERNS_THE_CALL = (
    errors.BadRequest,
    errors.Unauthenticated,
    errors.NotAcceptable,
    errors.UnknownModel,
    errors.UnknownVersion,
    errors.UnknownOutput,
    errors.UnexpectedAnswer,
)
"""Whatever the image, these come again: they are raised, not told image by image."""

_MAY_BE_ONE = (errors.ImageTooLarge, errors.TooManyImages, errors.ModelServerFault, errors.InternalError)
"""Refusals of a whole request that one image, or only their number, may have caused: each is sent again alone."""


def sending(pictures: Sequence[Any], bodies: Sequence[bytes | errors.MicrotomeError]) -> Sending:
    """Send images as one request, and again alone those that it failed for.

    Args:
        pictures: as the caller passed them.
        bodies: what `collected` made of them.

    Returns:
        their outcomes, in order.

    Raises:
        MicrotomeError: the call as a whole is at fault.
    """
    results: list[Outcome] = [
        Outcome(picture, error=body if isinstance(body, errors.MicrotomeError) else None)
        for picture, body in zip(pictures, bodies, strict=True)
    ]
    sound = [(place, body) for place, body in enumerate(bodies) if isinstance(body, bytes)]
    waiting = [sound] if sound else []
    while waiting:
        group = waiting.pop(0)
        came = yield [body for _, body in group]
        if isinstance(came, errors.MicrotomeError):
            if isinstance(came, CONCERNS_THE_CALL):
                raise came
            if len(group) > 1 and isinstance(came, _MAY_BE_ONE):
                waiting += [[one] for one in group]
                continue
            failures = came.failures if isinstance(came, errors.NoImageEmbedded) else {}
            came = Answer(None, [failures.get(number, came) for number in range(len(group))])
        for one, result in zip(group, came.results, strict=True):
            place = one[0]
            if isinstance(result, errors.MicrotomeError):
                # Not told apart from the others, or for a reason that passes.
                if isinstance(result, errors.TemporarilyUnable | errors.NoImageEmbedded) and len(group) > 1:
                    waiting.append([one])
                results[place] = Outcome(pictures[place], error=result)
            else:
                results[place] = Outcome(pictures[place], vectors=result, model=came.model)
    return results
