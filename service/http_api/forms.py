"""Images out of a form: one in each file part, whatever the parts' names."""

from collections.abc import AsyncIterator
from typing import Protocol

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.embedding.urls import Url
from service.errors import BadRequest, ImageTooLarge, RequestRejected, TooManyImages


class FormLimits(Protocol):
    """Bytes of one encoded image, bytes of a whole request, and images of a request."""

    @property
    def max_image_bytes(self) -> int: ...  # noqa: D102
    @property
    def max_body_bytes(self) -> int: ...  # noqa: D102
    @property
    def max_images(self) -> int: ...  # noqa: D102


async def read_form(
    headers: Headers, pieces: AsyncIterator[bytes], limits: FormLimits
) -> list[bytes | Url | RequestRejected]:
    """Read multipart/form-data.

    Raises:
        BadRequest: a broken form, or one with fields that are no files.
        ImageTooLarge: a part with more bytes than an image may have.
        TooManyImages: more file parts than the limit.
    """

    class InMemoryParser(MultiPartParser):
        # The body's bytes are bounded by the budget: no detour over temporary files.
        spool_max_size = limits.max_body_bytes

    parser = InMemoryParser(
        headers,
        pieces,  # type: ignore[arg-type]  # it is iterated, no more
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
        images: list[bytes | Url | RequestRejected] = [
            await _file(part, limits) for _, part in form.multi_items() if isinstance(part, UploadFile)
        ]
    finally:
        await form.close()
    if not images:
        raise BadRequest("Expected at least one file part with an image in it, received a form without any.")
    return images


async def _file(part: UploadFile, limits: FormLimits) -> bytes | RequestRejected:
    if (part.size or 0) > limits.max_image_bytes:
        return ImageTooLarge(f"Expected at most {limits.max_image_bytes} bytes an image, received {part.size}.")
    return await part.read()
