"""Read images out of a request's body, counting bytes before holding them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from service.embedding.budget import Budget
from service.embedding.ports import Observer
from service.embedding.stopwatch import timed
from service.errors import BadRequest, ImageTooLarge, TooManyImages


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Bytes of one encoded image, bytes of a whole request, and images of a request."""

    max_image_bytes: int
    max_body_bytes: int
    max_images: int


@asynccontextmanager
async def received_images(
    request: Request, limits: BodyLimits, budget: Budget, observer: Observer
) -> AsyncIterator[list[bytes]]:
    """Read the body as images, and hold its bytes in the budget while the block runs.

    A body of `multipart/form-data` has an image in each file part, whatever the parts' names. Any other body is one
    image, whatever its Content-Type: bytes are sniffed, and `curl --data-binary` calls everything a form.

    Raises:
        BadRequest: no body, or a broken form.
        ImageTooLarge: more bytes than the limits allow; refused before they are read where the length is told.
        TooManyImages: more file parts than the limit.
        Overloaded: the bodies in flight leave no room.
    """
    announced = _announced(request, limits)
    with budget.hold(announced):
        with timed(observer.stage, "read"):
            is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
            images = await _from_form(request, limits) if is_form else [await _whole(request, limits)]
        yield images


def _announced(request: Request, limits: BodyLimits) -> int:
    """Return the length that the request tells; one that tells none may use all that a request may."""
    length = request.headers.get("content-length")
    if length is None:
        return limits.max_body_bytes
    if int(length) > limits.max_body_bytes:
        raise ImageTooLarge(f"Expected at most {limits.max_body_bytes} bytes a request, received {length}.")
    return int(length)


async def _counted(request: Request, limit: int, what: str) -> AsyncIterator[bytes]:
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                raise ImageTooLarge(f"Expected at most {limit} bytes {what}, received more.")
            yield chunk
    except ClientDisconnect:
        raise BadRequest("The connection was closed before the whole body had come.") from None


async def _whole(request: Request, limits: BodyLimits) -> bytes:
    body = b"".join([chunk async for chunk in _counted(request, limits.max_image_bytes, "an image")])
    if not body:
        raise BadRequest(
            "Expected an image as the body, or images as file parts of multipart/form-data; received 0 bytes. "
            "With curl: --data-binary @photo.jpg"
        )
    return body


async def _from_form(request: Request, limits: BodyLimits) -> list[bytes]:
    class InMemoryParser(MultiPartParser):
        # The body's bytes are bounded by the budget: no detour over temporary files.
        spool_max_size = limits.max_body_bytes

    parser = InMemoryParser(
        request.headers,
        _counted(request, limits.max_body_bytes, "a request"),  # type: ignore[arg-type]  # it is iterated, no more
        max_files=limits.max_images,
        max_fields=0,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise TooManyImages(f"Expected at most {limits.max_images} images a request, received more.") from None
        raise BadRequest(
            f"Expected multipart/form-data with one image in each file part. {error.message} "
            "Options go into the query string. With curl: -F image=@photo.jpg"
        ) from None
    try:
        return [await _file(part, limits) for _, part in form.multi_items() if isinstance(part, UploadFile)]
    finally:
        await form.close()


async def _file(part: UploadFile, limits: BodyLimits) -> bytes:
    if (part.size or 0) > limits.max_image_bytes:
        raise ImageTooLarge(f"Expected at most {limits.max_image_bytes} bytes an image, received {part.size}.")
    return await part.read()
