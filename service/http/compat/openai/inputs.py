"""The images of a request, in any of the ways in which clients of this contract write them.

| from | items of `input` |
|---|---|
| infinity, Haystack | strings: data URIs, or addresses |
| Jina and its clients | objects: `image` or `url`: address, data URI or bare base64; `bytes`: bare base64 |
| vLLM | no `input` but `messages`, as in a chat, with `image_url` in their content |
"""

from collections.abc import Mapping

from service.core.remote_images import Image
from service.errors import BadRequest, UnsupportedModality
from service.http.compat.pictures import NO_TEXT, is_address, is_data_uri, picture

FIELDS = ("input", "messages")

_EXPECTED = (
    "Expected `input` to be images: data URIs or https:// addresses as strings, or objects such as "
    '{"image": "<base64>"}; or `messages` with image_url contents'
)
_TOKENS = (
    "This server embeds images only, and received token ids. If LangChain's OpenAIEmbeddings sent them, construct it "
    "with check_embedding_ctx_length=False, and give it images as data URIs."
)


def images(fields: Mapping[str, object], max_bytes: int) -> list[Image]:
    """Read the images of a request.

    Args:
        fields: of the request.
        max_bytes: of one encoded image.

    Returns:
        Each as its bytes, as an address, or as what is wrong with it.

    Raises:
        UnsupportedModality: text or token ids.
        BadRequest: anything else that holds no images.
    """
    match fields:
        case {"input": _, "messages": _}:
            raise BadRequest(f"{_EXPECTED}, not both.")
        case {"messages": [_, *_] as messages}:
            return [found for message in messages for found in _message(message, max_bytes)]
        case {"input": [_, *_] as items}:
            return [_item(item, max_bytes) for item in items]
        case {"input": str() | dict() as item}:
            return [_item(item, max_bytes)]
    raise BadRequest(f"{_EXPECTED}; received neither, or an empty list.")


def _item(item: object, max_bytes: int) -> Image:
    match item:
        case str():
            if not is_address(item) and not is_data_uri(item):
                raise UnsupportedModality(NO_TEXT)
            return picture(item, max_bytes)
        case {"text": _}:
            raise UnsupportedModality(NO_TEXT)
        case {"image": text, **rest} | {"url": text, **rest} | {"bytes": text, **rest} if not rest:
            return picture(text, max_bytes)
        case int() | [int(), *_]:
            raise UnsupportedModality(_TOKENS)
    raise BadRequest(f"{_EXPECTED}; received an item that is something else.")


def _message(message: object, max_bytes: int) -> list[Image]:
    match message:
        case {"content": str()}:
            raise UnsupportedModality(NO_TEXT)
        case {"content": [*parts]}:
            return [found for part in parts for found in _part(part, max_bytes)]
    raise BadRequest(f"{_EXPECTED}; received a message without a list of contents.")


def _part(part: object, max_bytes: int) -> list[Image]:
    match part:
        case {"type": "image_url", "image_url": {"url": text} | (str() as text)}:
            return [picture(text, max_bytes)]
        case {"type": "text", "text": ""}:
            # Some clients put an empty text beside each image.
            return []
        case {"type": "text"}:
            raise UnsupportedModality(NO_TEXT)
    raise BadRequest(f"{_EXPECTED}; received a content of another type.")
