"""Images and texts as they stand in JSON: base64, data URIs, addresses; and no more than a request may have."""

from collections.abc import Iterable
from itertools import islice

import pybase64

from microtome.errors import BadRequest, ImageTooLarge, RequestRejected, TooManyImages
from service.core.remote_images import MAX_ADDRESS, MAX_TEXT, Image, Text, Url
from service.http.bounded_json import LongText

_HEAD_LETTERS = 128
"""Within which a data URI has its comma."""

_ESCAPED = 6
"""How much longer a text may be in JSON, where each byte may be an escape."""

_WRAPPED = 1.25
"""How much longer base64 is with line breaks and JSON's escapes."""


def at_most(most: int, images: Iterable[Image]) -> list[Image]:
    """Take images while they are read, and no more of them than one request may have.

    Raises:
        TooManyImages: there are more.
    """
    found = list(islice(images, most + 1))
    if len(found) > most:
        raise TooManyImages(f"Expected at most {most} images a request, received more.")
    return found


def from_address(address: str) -> Url | RequestRejected:
    """Take an address, of which no more is checked here than its length; an error is returned."""
    if len(address) > MAX_ADDRESS or isinstance(address, LongText):
        return BadRequest(f"Expected an address of at most {MAX_ADDRESS} characters; received {address[:40]!r}…")
    return Url(address)


def from_text(text: str) -> Text | RequestRejected:
    """Take a text; an error is returned. The core checks the length of what is not much too long."""
    if not isinstance(text, LongText):
        return Text(text)
    if len(text.raw) > _ESCAPED * MAX_TEXT:
        return BadRequest(f"Expected a text of at most {MAX_TEXT} bytes; received {len(text.raw)}.")
    try:
        return Text(text.unescaped().decode())
    except ValueError:
        return BadRequest(f"Expected a text in JSON; received {text[:24]!r}…, which has an escape that JSON has not.")


def from_data_uri(uri: str, max_bytes: int) -> bytes | RequestRejected:
    """Decode data:image/…;base64,…; an error is returned."""
    comma = uri.find(",", 0, _HEAD_LETTERS)
    head = uri[: max(comma, 0)].lower()
    if not head.startswith("data:") or not head.endswith(";base64"):
        return BadRequest(f"Expected data:image/…;base64,…; received {uri[:40]!r}.")
    return from_base64(uri.after_comma() if isinstance(uri, LongText) else uri[comma + 1 :], max_bytes)


def from_base64(text: str, max_bytes: int) -> bytes | RequestRejected:
    """Decode base64; an error is returned."""
    # base64 has four letters for three bytes.
    length = len(text.raw) if isinstance(text, LongText) else len(text)
    if length // 4 * 3 > _WRAPPED * max_bytes + 3:
        return ImageTooLarge(f"Expected at most {max_bytes} bytes an image, received about {length // 4 * 3}.")
    try:
        letters = text.unescaped() if isinstance(text, LongText) else text.encode("ascii")
        if b"\n" in letters:
            # `base64 photo.jpg` wraps its lines.
            letters = letters.replace(b"\r", b"").replace(b"\n", b"")
        decoded = pybase64.b64decode(letters, validate=True)
    except ValueError:
        return BadRequest(f"Expected base64 (the standard alphabet, padded); received {text[:24]!r}…")
    if len(decoded) > max_bytes:
        return ImageTooLarge(f"Expected at most {max_bytes} bytes an image, received {len(decoded)}.")
    return decoded
