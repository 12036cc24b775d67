"""Images that a request names by their address: fetched in parallel, or refused."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from microtome.errors import RequestRejected, UrlNotAllowed

MAX_ADDRESS = 4096
"""Characters of an image's address."""


@dataclass(frozen=True, slots=True)
class Url:
    """An image's address."""

    address: str


MAX_TEXT = 1 << 14
"""Bytes of a text in UTF-8. A text tower reads some 77 tokens of it; a longer one is sent by mistake."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text, for a model that has a text tower."""

    text: str


Image = bytes | Url | Text | RequestRejected
"""One item as it arrived: an image's bytes or address, a text, or what is wrong with it."""

Arrived = bytes | Text | RequestRejected
"""One item without addresses."""

Fetch = Callable[[Sequence[Image]], Awaitable[list[Arrived]]]
"""Replaces each address by the bytes fetched, or by what is wrong with it."""


class Fetcher(Protocol):
    """Fetches from an address."""

    async def fetch(self, address: str, *, max_bytes: int) -> bytes:
        """Return the bytes.

        Raises:
            UrlNotAllowed: fetching from there is not allowed.
            UrlNotFetched: it was tried, and failed.
            ImageTooLarge: more than `max_bytes`.
        """
        ...


def fetching(fetcher: Fetcher | None, *, max_bytes: int, max_total: int, at_a_time: int = 8) -> Fetch:
    """Fetch with `fetcher`, or refuse all addresses when there is none.

    Args:
        fetcher: fetches one.
        max_bytes: of one image.
        max_total: of all images of a request, which share it equally, since their sizes are not known before.
        at_a_time: of one request.
    """

    async def fetch(images: Sequence[Image]) -> list[Arrived]:
        room = asyncio.Semaphore(at_a_time)
        share = min(max_bytes, max_total // max(1, sum(isinstance(image, Url) for image in images)))

        async def one(image: Image) -> Arrived:
            if not isinstance(image, Url):
                return image
            if fetcher is None:
                return UrlNotAllowed("Expected the image itself: this server fetches none from addresses. Send base64.")
            async with room:
                try:
                    return await fetcher.fetch(image.address, max_bytes=share)
                except RequestRejected as error:
                    return error

        return list(await asyncio.gather(*(one(image) for image in images)))

    return fetch
