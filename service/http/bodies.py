"""Read images from a request's body: one as it is, file parts of a form, or JSON with base64, addresses and texts.

Bytes are counted before they are held. The Content-Type is only a hint, except for forms, whose boundary it names: JSON
is recognised by its first brace, which no image has.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from time import monotonic
from typing import NamedTuple, TypeVar

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header
from starlette.types import Receive, Scope

from microtome.errors import BadRequest, BodyTooSlow, DeadlineExceeded, ImageTooLarge, RequestRejected, TooManyImages
from microtome.regions import WHOLE, Region, read_regions
from service.core.admission import Budget
from service.core.remote_images import Image, Text
from service.core.timeouts import SharedTimeout
from service.errors import shown
from service.http.bounded_json import read_object
from service.http.json_images import at_most, from_address, from_base64, from_data_uri, from_text
from service.http.middleware import headers_of
from service.http.parameters import OPTIONS, unknown_name

_JSON_TO_BYTES = 3
"""Memory for each byte of a JSON body while it is read: the body twice while its pieces are joined, then its images."""

JSON_OFF_LOOP_BYTES = 1 << 18
"""Larger JSON is parsed in a thread, so that it does not delay other requests."""

T = TypeVar("T")

_ALL = (WHOLE,)

_IMAGE_BEGINNINGS = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0")

_MAX_PART_HEADER = 1 << 16
"""Bytes of one header of a form's part. Nothing is done with a file's name, so its length is no reason to refuse."""

# A quoted string, or the beginning of a file's name in any of its spellings: filename, filename* (RFC 5987), filename*0
# (RFC 2231). An open string ends with the header, so each byte is looked at once.
_FILENAME = re.compile(r'"(?:[^"\\]|\\.?)*(?:"|\Z)|;[ \t]*(filename(?:\*[0-9]*\*?)?)[ \t]*=', re.IGNORECASE | re.DOTALL)

_JSON_FORMS = ("b64", "data_uri", "url", "text")
_JSON_FIELDS = ("image", "images", "text", "inputs")
_JSON_EXPECTED = (
    'Expected {"image": "<base64 or data URI>"}, {"text": "…"} or '
    '{"inputs": [{"b64": "…"}, {"data_uri": "data:image/…;base64,…"}, {"url": "https://…"}, {"text": "…"}]}'
)


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Bytes of one encoded image, bytes of a whole request, images of a request; seconds between a body's pieces."""

    max_image_bytes: int
    max_body_bytes: int
    max_images: int
    max_pause: float = 10.0


class Received(NamedTuple):
    """The images and texts of a body, and the options of a JSON body.

    Attributes:
        crops: the regions that each image brings, `()` where it brings none; none where no image brings any.
        regions: of each image; none where all of each is wanted.
    """

    images: Sequence[Image]
    options: Mapping[str, object]
    crops: Sequence[tuple[Region, ...]] = ()
    regions: Sequence[Region] = ()

    def cut(self, default: tuple[Region, ...], most: int) -> "Received":
        """Take each region for an image of its own, in their order.

        Args:
            default: regions of images that bring none; none for all of each.
            most: images of a request.

        Raises:
            TooManyImages: more regions than that.
        """
        crops = [
            own or (_ALL if isinstance(image, Text) else default) or _ALL
            for own, image in zip(self.crops or [()] * len(self.images), self.images, strict=True)
        ]
        count = sum(map(len, crops))
        if count > most:
            raise TooManyImages(f"Expected at most {most} images a request, each crop counted; received {count}.")
        images = [image for image, own in zip(self.images, crops, strict=True) for _ in own]
        return self._replace(images=images, regions=[region for own in crops for region in own])


@dataclass(slots=True)
class BodyReader:
    """Reads bodies within limits; the bytes to hold in `budget` meanwhile are those of `size`."""

    limits: BodyLimits
    budget: Budget
    _pause_timeout: SharedTimeout = field(init=False)

    def __post_init__(self) -> None:
        """Share one timer between all bodies."""
        self._pause_timeout = SharedTimeout(self.limits.max_pause)

    def size(self, scope: Scope, *, json: bool = False) -> int:
        """Return the bytes to hold for a request; without a Content-Length the most that a request may have.

        Args:
            scope: of the request.
            json: whether the body is JSON even if its Content-Type says otherwise.

        Raises:
            BadRequest: the body has a Content-Encoding.
            ImageTooLarge: the Content-Length is beyond the limit.
        """
        headers, limit = headers_of(scope), self.limits.max_body_bytes
        coding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
        if coding not in {"", "identity"}:
            raise BadRequest(f"Expected a body without Content-Encoding, received {coding[:40]!r}. Images are compact.")
        stated = headers.get(b"content-length")
        # The HTTP parser accepts digits only, and any number of zeros before them, where Python does not.
        length = limit if stated is None else int(stated.lstrip(b"0") or b"0")
        if length > limit:
            raise ImageTooLarge(f"Expected at most {limit} bytes a request, received {length}.")
        return length * _JSON_TO_BYTES if json or _says_json(_content_type(scope)) else length

    async def images(
        self, scope: Scope, receive: Receive, seconds: float = inf, options: Collection[str] = OPTIONS
    ) -> Received:
        """Read the images of a body.

        Args:
            scope: of the request.
            receive: its messages.
            seconds: in which the body has to come.
            options: names of the options that a JSON body may have.

        Raises:
            BadRequest: no body, a broken form, or JSON in an unknown form.
            BodyTooSlow: the next piece of the body is late.
            DeadlineExceeded: the body has not come in time.
            ImageTooLarge: more bytes than the limits allow.
            TooManyImages: more images than the limit.
        """
        content_type, until = _content_type(scope), monotonic() + seconds
        if content_type.lower().startswith("multipart/form-data"):
            return Received(await read_form(content_type, self._pieces(receive, until=until), self.limits), {})
        said = _says_json(content_type)
        body = await (self.text(receive, until) if said else self.whole(receive, image=True, until=until))
        if not body:
            raise BadRequest(
                "Expected an image as the body, images as file parts of multipart/form-data, or JSON; received 0 "
                "bytes. With curl: --data-binary @photo.jpg"
            )
        if not is_json(body, content_type):
            return Received([bytes(body)], {})
        read = partial(read_json, limits=self.limits, options=options)
        if said:
            return await read_off_loop(read, body)
        # `size` has not counted it as JSON. It is in memory already, so it is not refused, and others wait.
        more = (_JSON_TO_BYTES - 1) * len(body)
        self.budget.change(more)
        try:
            return await read_off_loop(read, body)
        finally:
            self.budget.change(-more)

    async def text(self, receive: Receive, until: float = inf) -> bytes | bytearray:
        """Read a body of JSON: into one piece as it comes, since joining a large one holds the event loop.

        Args:
            receive: of the request.
            until: when the body has to have come, as `time.monotonic` counts.

        Raises:
            BodyTooSlow, DeadlineExceeded, ImageTooLarge: as `images` does.
        """
        first, more = await self._next_piece(receive, until)
        if not more:
            return first
        body = bytearray(first)
        async for piece in self._pieces(receive, len(body), until):
            body += piece
        return body

    async def whole(self, receive: Receive, *, image: bool = False, until: float = inf) -> bytes:
        """Read a body as it is.

        Args:
            receive: of the request.
            image: whether the limit of one image applies, unless the body begins as JSON does.
            until: when the body has to have come, as `time.monotonic` counts.

        Raises:
            BodyTooSlow, DeadlineExceeded, ImageTooLarge: as `images` does.
        """
        pieces: list[bytes] = []
        total, limit, what, more = 0, self.limits.max_body_bytes, "a request", True
        while more:
            piece, more = await self._next_piece(receive, until)
            if image and not total and piece and not piece.lstrip().startswith(b"{"):
                limit, what = self.limits.max_image_bytes, "an image"
            total += len(piece)
            if total > limit:
                raise ImageTooLarge(f"Expected at most {limit} bytes {what}, received more.")
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _pieces(self, receive: Receive, received: int = 0, until: float = inf) -> AsyncIterator[bytes]:
        limit, more = self.limits.max_body_bytes, True
        while more:
            piece, more = await self._next_piece(receive, until)
            received += len(piece)
            if received > limit:
                raise ImageTooLarge(f"Expected at most {limit} bytes a request, received more.")
            if piece:
                yield piece

    async def _next_piece(self, receive: Receive, until: float) -> tuple[bytes, bool]:
        """Return the next piece of the body, and whether more follows."""
        left = until - monotonic()
        late = left < self.limits.max_pause
        try:
            async with asyncio.timeout(left) if late else self._pause_timeout.bounded():
                message = await receive()
        except TimeoutError:
            if late:
                raise DeadlineExceeded("No answer in the time allowed for this request: its body came late.") from None
            raise BodyTooSlow(
                f"Expected the next piece of the body within {self.limits.max_pause:g} s, received none."
            ) from None
        if message["type"] == "http.disconnect":
            raise BadRequest("The connection was closed before the whole body had come.")
        return message.get("body", b""), message.get("more_body", False)


def _content_type(scope: Scope) -> str:
    return headers_of(scope).get(b"content-type", b"").decode("latin-1")


def _says_json(content_type: str) -> bool:
    if "json" not in content_type.lower():
        return False
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def is_json(body: bytes | bytearray, content_type: str) -> bool:
    """Tell JSON from an image by the first bytes; by the Content-Type if they are neither's."""
    return body[:64].lstrip().startswith(b"{") or (_says_json(content_type) and not body.startswith(_IMAGE_BEGINNINGS))


async def read_form(content_type: str, pieces: AsyncIterator[bytes], limits: BodyLimits) -> list[Image]:
    """Read multipart/form-data (RFC 7578), one image in each file part; the parts' names do not matter.

    Of each part no more bytes are held than an image may have. A part is a file if its header names one, in whatever
    spelling and bytes, if it says that it is no text, or if it begins as images do.

    Raises:
        BadRequest: a broken form, or one with fields that are not files.
        TooManyImages: more file parts than the limit.
    """
    _, options = parse_options_header(content_type)
    files = _FileParts(limits)
    try:
        # Every byte is a character of Latin-1: a name in any other encoding is read, and not used.
        with PushMultipartParser(
            options.get("boundary", ""), header_charset="latin-1", max_header_size=_MAX_PART_HEADER
        ) as parser:
            async for piece in pieces:
                for event in parser.parse(piece):
                    files.take(event)
    except MultipartError as error:
        raise _broken_form(f"{error}.") from None
    if not files.images:
        raise BadRequest("Expected at least one file part with an image in it, received a form without any.")
    return files.images


class _FileParts:
    """The file parts read so far, and the current one."""

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._pieces: list[bytes] = []
        self._size = 0
        self._field: str | None = None
        """The name of the current part, if it may be none of a file."""
        self.images: list[Image] = []

    def take(self, event: MultipartSegment | bytearray | bytes | None) -> None:
        """Take an event of the parser: the head of a part, a piece of it, or its end."""
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
        self._field = part.name if part.filename is None and not _names_a_file(part) else None
        self._pieces, self._size = [], 0

    def _whole(self) -> bytes | RequestRejected:
        most = self._limits.max_image_bytes
        image = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        if self._field is not None and not image.startswith(_IMAGE_BEGINNINGS):
            # Sent as UTF-8 by all but old clients.
            name = self._field.encode("latin-1").decode("utf-8", "replace")
            raise _broken_form(f"Received the field {name[:80]!r}, which is no file.")
        if self._size > most:
            return ImageTooLarge(f"Expected at most {most} bytes an image, received {self._size}.")
        return image


def _names_a_file(part: MultipartSegment) -> bool:
    """Say whether a part is a file, whose name the parser could not read."""
    disposition = part.header("Content-Disposition", "")
    if any(found[1] for found in _FILENAME.finditer(disposition)):
        return True
    return bool(part.content_type) and not part.content_type.startswith("text/")


def _broken_form(what: str) -> BadRequest:
    return BadRequest(
        f"Expected multipart/form-data with one image in each file part. {what} "
        "Options go into the query string. With curl: -F image=@photo.jpg"
    )


async def read_off_loop(read: Callable[[bytes | bytearray], T], body: bytes | bytearray) -> T:
    """Read a body, in a thread if it is large."""
    return await asyncio.to_thread(read, body) if len(body) > JSON_OFF_LOOP_BYTES else read(body)


def read_json(body: bytes | bytearray, *, limits: BodyLimits, options: Collection[str] = OPTIONS) -> Received:
    """Read a JSON body: base64, data URIs, addresses, texts, and options.

    Raises:
        BadRequest: not JSON, not an object, without images or texts in one of their forms, or with unknown fields.
        TooManyImages: more images than the limit.
    """
    value = read_object(body)
    for name in value:
        if name not in options and name not in _JSON_FIELDS:
            raise unknown_name(name, (*options, *_JSON_FIELDS))
    given = {name: field for name, field in value.items() if name not in _JSON_FIELDS}
    crops: list[tuple[Region, ...]] = []
    images = (_json_image(item, limits.max_image_bytes, crops) for item in _items(value))
    found = at_most(limits.max_images, images)
    return Received(found, given, crops if any(crops) else ())


def _items(value: Mapping[str, object]) -> list[object]:
    if sum(name in value for name in _JSON_FIELDS) > 1:
        raise BadRequest(f"{_JSON_EXPECTED}, not both in one body.")
    match value:
        case {"image": str(short)}:
            return [{"data_uri": short} if short[:5].lower() == "data:" else {"b64": short}]
        case {"text": str(text)}:
            return [{"text": text}]
        # `images` is the older name.
        case {"images": [_, *_] as items} | {"inputs": [_, *_] as items}:
            return list(items)
    raise BadRequest(f"{_JSON_EXPECTED}; received neither, or an empty list.")


def _json_image(item: object, max_bytes: int, crops: list[tuple[Region, ...]]) -> Image:
    """Decode one item, and add its crops; an error is returned, since it may concern this image only."""
    crops.append(())
    if isinstance(item, dict) and (crop := item.pop("crop", None)) is not None:
        try:
            crops[-1] = read_regions(crop)
        except ValueError as error:
            return BadRequest(f"Expected `crop` to be {error}; received {shown(crop)}.")
    match item:
        case {"url": str(address), **rest} if not rest:
            return from_address(address)
        case {"b64": str(text), **rest} if not rest:
            return from_base64(text, max_bytes)
        case {"data_uri": str(uri), **rest} if not rest:
            return from_data_uri(uri, max_bytes)
        case {"text": str(text), **rest} if not rest:
            return (
                BadRequest("Expected `crop` with an image; received it with a text.") if crops[-1] else from_text(text)
            )
    return BadRequest(
        f"Expected an object with one of {', '.join(_JSON_FORMS)}, which is a string, and perhaps with `crop`."
    )
