"""Read images out of a request's body, counting bytes before holding them.

The Content-Type is a hint. A form has to say so, since its boundary stands there; anything else is told from its first
bytes: an object of JSON begins with a brace, and no image does.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

from starlette.requests import Request

from service.core.admission import Budget
from service.core.remote_images import Url
from service.errors import BadRequest, BodyTooSlow, ImageTooLarge, RequestRejected
from service.http.forms import read_form
from service.http.head import head
from service.http.json_images import JsonBody, read_json

T = TypeVar("T")

_JSON_TO_BYTES = 3
"""Memory that a JSON body takes for each of its bytes while it is read: itself, its strings, its images."""

_JSON_OFF_LOOP_BYTES = 1 << 20
"""JSON of more bytes than this is read in a thread, so that others have their turn between its images."""

_IMAGE_BEGINNINGS = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0")


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Bytes of one encoded image, bytes of a whole request, images of a request; seconds between a body's pieces."""

    max_image_bytes: int
    max_body_bytes: int
    max_images: int
    max_pause: float = 10.0


class Received(NamedTuple):
    """What a body held: images as bytes, as an address, or as what is wrong with them; and options, if it was JSON."""

    images: list[bytes | Url | RequestRejected]
    options: Mapping[str, object]


@dataclass(slots=True)
class BodyReader:
    """Reads bodies within limits, and holds their bytes in a budget."""

    limits: BodyLimits
    budget: Budget
    _nothing: Mapping[str, object] = field(default_factory=dict)

    @asynccontextmanager
    async def received(self, request: Request, *budgets: Budget) -> AsyncIterator["Received"]:
        """Read the body, and hold its bytes in the budget, and in the caller's own, while the block runs.

        Raises:
            BadRequest: no body, a broken form, or JSON in no form that we read.
            BodyTooSlow: no piece of the body came for a while.
            ImageTooLarge: more bytes than the limits allow; refused before they are read where the length is told.
            TooManyImages: more images than the limit.
            Overloaded: the bodies in flight leave no room.
        """
        amount = self._announced(request, json=_says_json(_content_type(request)))
        with self.budget.hold(amount):
            if not budgets:
                yield await self._read(request, self._images)
                return
            with budgets[0].hold(amount):
                yield await self._read(request, self._images)

    @asynccontextmanager
    async def whole(self, request: Request, *budgets: Budget) -> AsyncIterator[bytes]:
        """Read the body as it is, for contracts with a form of their own, and hold its bytes as those of JSON are held.

        Raises:
            ServiceError: as `received` does for the body as a whole.
        """
        amount = self._announced(request, json=True)
        with ExitStack() as held:
            for budget in (self.budget, *budgets):
                held.enter_context(budget.hold(amount))
            yield await self._read(request, self._bytes)

    def _announced(self, request: Request, *, json: bool) -> int:
        """Return the bytes to hold; a body that tells no length may use all that a request may."""
        headers, limit = head(request.scope), self.limits.max_body_bytes
        coding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
        if coding not in {"", "identity"}:
            raise BadRequest(f"Expected a body without Content-Encoding, received {coding[:40]!r}. Images are compact.")
        told = headers.get(b"content-length")
        # The HTTP parser lets digits through only.
        length = limit if told is None else int(told)
        if length > limit:
            raise ImageTooLarge(f"Expected at most {limit} bytes a request, received {length}.")
        return length * _JSON_TO_BYTES if json else length

    async def _read(self, request: Request, read: Callable[[Request, asyncio.Timeout], Awaitable[T]]) -> T:
        # One timer for the body, wound up again with each piece: one for each wait costs a tenth of a small request.
        patience = asyncio.timeout(self.limits.max_pause)
        try:
            async with patience:
                return await read(request, patience)
        except TimeoutError:
            raise BodyTooSlow(
                f"Expected the next piece of the body within {self.limits.max_pause:g} s, received none."
            ) from None

    async def _bytes(self, request: Request, patience: asyncio.Timeout) -> bytes:
        return b"".join([piece async for piece in self._counted(request, patience)])

    async def _images(self, request: Request, patience: asyncio.Timeout) -> Received:
        content_type = _content_type(request)
        if content_type.lower().startswith("multipart/form-data"):
            return Received(
                await read_form(request.headers, self._counted(request, patience), self.limits), self._nothing
            )
        body = await self._whole(request, patience, says_json=_says_json(content_type))
        if is_json(body, content_type):
            found: JsonBody = await self._json(body)
            return Received(found.images, found.options)
        return Received([body], self._nothing)

    async def _json(self, body: bytes) -> JsonBody:
        read = partial(read_json, max_images=self.limits.max_images, max_image_bytes=self.limits.max_image_bytes)
        return await asyncio.to_thread(read, body) if len(body) > _JSON_OFF_LOOP_BYTES else read(body)

    async def _whole(self, request: Request, patience: asyncio.Timeout, *, says_json: bool) -> bytes:
        # A loop of its own beside `_counted`, since most requests come this way, and most of them in one piece.
        pieces: list[bytes] = []
        total, limit, what, more = 0, self.limits.max_body_bytes, "a request", True
        while more:
            piece, more = await _next_piece(request)
            if not piece:
                continue
            if not pieces and not says_json and not piece.lstrip().startswith(b"{"):
                limit, what = self.limits.max_image_bytes, "an image"
            total += len(piece)
            if total > limit:
                raise ImageTooLarge(f"Expected at most {limit} bytes {what}, received more.")
            pieces.append(piece)
            if more:
                self._wait_anew(patience)
        if not total:
            raise BadRequest(
                "Expected an image as the body, images as file parts of multipart/form-data, or JSON; received 0 "
                "bytes. With curl: --data-binary @photo.jpg"
            )
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _counted(self, request: Request, patience: asyncio.Timeout) -> AsyncIterator[bytes]:
        received, limit, more = 0, self.limits.max_body_bytes, True
        while more:
            piece, more = await _next_piece(request)
            if not piece:
                continue
            self._wait_anew(patience)
            received += len(piece)
            if received > limit:
                raise ImageTooLarge(f"Expected at most {limit} bytes a request, received more.")
            yield piece

    def _wait_anew(self, patience: asyncio.Timeout) -> None:
        patience.reschedule(asyncio.get_running_loop().time() + self.limits.max_pause)


async def _next_piece(request: Request) -> tuple[bytes, bool]:
    """Return the next piece of the body, and whether more of it follows."""
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise BadRequest("The connection was closed before the whole body had come.")
    return message.get("body", b""), message.get("more_body", False)


def _content_type(request: Request) -> str:
    return head(request.scope).get(b"content-type", b"").decode("latin-1")


def _says_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def is_json(body: bytes, content_type: str) -> bool:
    """Tell JSON from an image by its first bytes, and what is neither by what it says that it is."""
    return body[:64].lstrip().startswith(b"{") or (_says_json(content_type) and not body.startswith(_IMAGE_BEGINNINGS))
