"""Images out of a form: one in each file part, whatever the parts' names."""

from collections.abc import AsyncIterator
from typing import Protocol

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header
from starlette.datastructures import Headers

from service.core.remote_images import Url
from service.errors import BadRequest, ImageTooLarge, RequestRejected, TooManyImages


class FormLimits(Protocol):
    """Bytes of one encoded image, and images of a request."""

    @property
    def max_image_bytes(self) -> int: ...  # noqa: D102
    @property
    def max_images(self) -> int: ...  # noqa: D102


async def read_form(
    headers: Headers, pieces: AsyncIterator[bytes], limits: FormLimits
) -> list[bytes | Url | RequestRejected]:
    """Read multipart/form-data (RFC 7578) as it comes, and hold of each part no more than an image may have.

    Raises:
        BadRequest: a broken form, or one with fields that are no files.
        TooManyImages: more file parts than the limit.
    """
    _, options = parse_options_header(headers.get("content-type", ""))
    files = _Files(limits)
    try:
        with PushMultipartParser(options.get("boundary", "")) as parser:
            async for piece in pieces:
                for event in parser.parse(piece):
                    files.take(event)
    except MultipartError as error:
        raise _broken(f"{error}.") from None
    if not files.images:
        raise BadRequest("Expected at least one file part with an image in it, received a form without any.")
    return files.images


class _Files:
    """The file parts that have come, and the one that is coming."""

    def __init__(self, limits: FormLimits) -> None:
        self._limits = limits
        self._pieces: list[bytes] = []
        self._size = 0
        self.images: list[bytes | Url | RequestRejected] = []

    def take(self, event: MultipartSegment | bytearray | bytes | None) -> None:
        """Take what the parser tells: a part's head, a piece of it, or its end."""
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is None:
            self.images.append(self._whole())
        else:
            self._size += len(event)
            if self._size <= self._limits.max_image_bytes:
                self._pieces.append(bytes(event))

    def _begin(self, part: MultipartSegment) -> None:
        if len(self.images) == self._limits.max_images:
            raise TooManyImages(f"Expected at most {self._limits.max_images} images a request, received more.")
        if part.filename is None:
            raise _broken(f"Received the field {part.name[:80]!r}, which is no file.")
        self._pieces, self._size = [], 0

    def _whole(self) -> bytes | RequestRejected:
        most = self._limits.max_image_bytes
        if self._size > most:
            return ImageTooLarge(f"Expected at most {most} bytes an image, received {self._size}.")
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


def _broken(what: str) -> BadRequest:
    return BadRequest(
        f"Expected multipart/form-data with one image in each file part. {what} "
        "Options go into the query string. With curl: -F image=@photo.jpg"
    )
