"""Images out of a JSON body: base64, data URIs, or addresses to fetch them from."""

import binascii
from collections.abc import Mapping
from typing import NamedTuple

import orjson

from service.core.remote_images import Url
from service.errors import BadRequest, ImageTooLarge, RequestRejected, TooManyImages
from service.http.parameters import OPTIONS, unknown_name

FORMS = ("b64", "data_uri", "url")

_FIELDS = ("image", "images")
_EXPECTED = (
    'Expected {"image": "<base64 or data URI>"} or '
    '{"images": [{"b64": "…"}, {"data_uri": "data:image/…;base64,…"}, {"url": "https://…"}]}'
)


class JsonBody(NamedTuple):
    """What a JSON body holds: its images, each as bytes, an address or what is wrong with it, and its options."""

    images: list[bytes | Url | RequestRejected]
    options: Mapping[str, object]


def read_json(body: bytes, *, max_images: int, max_image_bytes: int) -> JsonBody:
    """Read a JSON body.

    Raises:
        BadRequest: not JSON, not an object, or without images in one of the two forms; unknown fields.
        TooManyImages: more than `max_images`.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"Expected a JSON object, received what is no JSON: {error}.") from None
    if not isinstance(value, dict):
        raise BadRequest(f"{_EXPECTED}; received JSON that is no object.")
    for name in value:
        if name not in OPTIONS and name not in _FIELDS:
            raise unknown_name(name, (*OPTIONS, *_FIELDS))
    items = _items(value)
    if len(items) > max_images:
        raise TooManyImages(f"Expected at most {max_images} images a request, received {len(items)}.")
    options = {name: field for name, field in value.items() if name not in _FIELDS}
    return JsonBody([_image(item, max_image_bytes) for item in items], options)


def _items(value: Mapping[str, object]) -> list[object]:
    match value:
        case {"image": _, "images": _}:
            raise BadRequest(f"{_EXPECTED}, not both in one body.")
        case {"image": str(short)}:
            return [{"data_uri": short} if short[:5].lower() == "data:" else {"b64": short}]
        case {"images": [_, *_] as items}:
            return list(items)
    raise BadRequest(f"{_EXPECTED}; received neither, or an empty list.")


def _image(item: object, max_bytes: int) -> bytes | Url | RequestRejected:
    """Decode one item; what is wrong with it is returned, since it may concern this image only."""
    match item:
        case {"url": str(address), **rest} if not rest:
            return Url(address)
        case {"b64": str(text), **rest} if not rest:
            return from_base64(text, max_bytes)
        case {"data_uri": str(uri), **rest} if not rest:
            return from_data_uri(uri, max_bytes)
    return BadRequest(f"Expected an object with one of {', '.join(FORMS)}, which is a string.")


def from_data_uri(uri: str, max_bytes: int) -> bytes | RequestRejected:
    """Decode data:image/…;base64,…; what is wrong with it is returned."""
    head, comma, text = uri.partition(",")
    if head[:5].lower() != "data:" or not comma or not head.lower().endswith(";base64"):
        return BadRequest(f"Expected data:image/…;base64,…; received {uri[:40]!r}.")
    return from_base64(text, max_bytes)


def from_base64(text: str, max_bytes: int) -> bytes | RequestRejected:
    """Decode base64; what is wrong with it is returned."""
    # base64 has four letters for three bytes.
    if len(text) // 4 * 3 > max_bytes + 3:
        return ImageTooLarge(f"Expected at most {max_bytes} bytes an image, received about {len(text) // 4 * 3}.")
    if "\n" in text:
        # `base64 photo.jpg` breaks its lines.
        text = text.replace("\r", "").replace("\n", "")
    try:
        decoded = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        return BadRequest(f"Expected base64 (the standard alphabet, padded); received {text[:24]!r}…: {error}.")
    if len(decoded) > max_bytes:
        return ImageTooLarge(f"Expected at most {max_bytes} bytes an image, received {len(decoded)}.")
    return decoded
