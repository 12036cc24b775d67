"""Read JSON of callers in bounded time and memory: long strings stay in the body, and the rest is counted first.

A parser makes up to 80 bytes of objects from a byte of JSON. But nearly all bytes of a request are images in base64. So
strings longer than any name are found by their quotes and taken out; what is left is small, and refused if it is not,
before objects are made of it.
"""

import secrets
from typing import Any, Self

import orjson

from microtome.errors import BadRequest

_SMALL_BYTES = 8 << 10
"""A body up to this size is parsed as it is: its objects take less than 1 MB."""

_LONG_BYTES = 1024
"""Longer strings are taken out; no name, option or usual address is so long."""

_MOST_QUOTES = 20_000
_MOST_BYTES, _MOST_VALUES = 1 << 18, 20_000
_MOST_BYTES_OF_NUMBERS, _MOST_NUMBERS = 1 << 22, 270_000
"""Pixels of one picture of 256 by 256, each a number in a list of three, also if each has a line of its own."""

_HEAD_BYTES = 160
_CHUNK_BYTES = 1 << 18
_LONGEST_ESCAPE = 6
_MOST_ESCAPES = 16
_MOST_BACKSLASHES = 64
_DEEPEST = 8
"""Lists and objects around an image in the contracts that are spoken here are fewer."""


class LongText(str):
    """A string that was taken out of a body: as `str` its beginning, which equals no name and no option.

    Attributes:
        raw: all of it, as it stands between its quotes.
    """

    raw: memoryview

    def __new__(cls, raw: memoryview) -> Self:
        """Keep a string as it stands in the body."""
        head = bytes(raw[:_HEAD_BYTES]).replace(b"\\/", b"/").decode("utf-8", "replace")
        made = super().__new__(cls, f"{head}…")
        made.raw = raw
        return made

    def after_comma(self) -> "LongText":
        """Return what follows the first comma, which the beginning has."""
        return LongText(self.raw[bytes(self.raw[:_HEAD_BYTES]).index(b",") + 1 :])

    def unescaped(self) -> bytes:
        """Return the string in UTF-8, with what JSON's escapes stand for: PHP escapes slashes, others line breaks.

        Raises:
            ValueError: an escape that JSON does not have, or many in a row.
        """
        whole = bytes(self.raw)
        if b"\\" not in whole:
            return whole
        pieces, at = [], 0
        while at < len(whole):
            end = min(at + _CHUNK_BYTES, len(whole))
            # Never within an escape.
            for _ in range(_MOST_ESCAPES):
                cut = whole.rfind(b"\\", max(at, end - _LONGEST_ESCAPE), end) if end < len(whole) else -1
                if cut < 0:
                    break
                end = cut
            else:
                raise ValueError("many escapes in a row")
            pieces.append(orjson.loads(b'"%b"' % whole[at:end]).encode())
            at = end
        return b"".join(pieces)


def read_object(body: bytes | bytearray, *, numbers: bool = False) -> dict[str, Any]:
    """Read a JSON object. Strings of more than 1,024 bytes may come as `LongText`.

    Args:
        body: of the request, or the part of it that is JSON.
        numbers: whether there may be the numbers of a tensor.

    Raises:
        BadRequest: not JSON, no object, or more values than a request can need.
    """
    long: list[LongText] = []
    token = ""
    if len(body) > _SMALL_BYTES:
        token = secrets.token_hex(8)
        body, long = _without_long(body, token.encode(), _MOST_BYTES_OF_NUMBERS if numbers else _MOST_BYTES)
        most = _MOST_NUMBERS if numbers else _MOST_VALUES
        values = body.count(b",") + body.count(b"[") + body.count(b"{")
        if values > most:
            raise BadRequest(f"Expected at most {most} values in JSON, received {values}. {_ADVICE}")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"Expected a JSON object as the body, received what is no JSON: {error}.") from None
    if not isinstance(value, dict):
        raise BadRequest("Expected a JSON object as the body, received JSON that is no object.")
    if long:
        value = _put_back(value, {f"{token}{number}": text for number, text in enumerate(long)}, _DEEPEST)
    return value  # type: ignore[no-any-return]  # an object


_ADVICE = "Send images as file parts of multipart/form-data to /embed, or in base64."


def _without_long(body: bytes | bytearray, token: bytes, most_bytes: int) -> tuple[bytes, list[LongText]]:
    """Replace each long string by `token` and its number.

    Raises:
        BadRequest: more strings, or more bytes apart from long strings, than a request can need.
    """
    view = memoryview(body)
    kept: list[bytes | bytearray] = []
    found: list[LongText] = []
    # `start` is the current string's opening quote, if there is one; what comes before `begin` has been kept.
    begin, at, start, size = 0, 0, -1, 0
    for _ in range(_MOST_QUOTES):
        quote = body.find(b'"', at)
        if quote < 0:
            break
        at = quote + 1
        if start < 0:
            start = quote
        elif not _escaped(body, quote):
            if quote - start > _LONG_BYTES:
                size += start + 1 - begin
                if size > most_bytes:
                    break
                kept.append(body[begin : start + 1] + token + b"%d" % len(found))
                found.append(LongText(view[start + 1 : quote]))
                begin = quote
            start = -1
    else:
        raise BadRequest(f"Expected at most {_MOST_QUOTES // 2} strings in JSON, received more. {_ADVICE}")
    size += len(body) - begin
    if size > most_bytes:
        raise BadRequest(
            f"Expected at most {most_bytes} bytes of JSON apart from its images, received {size}. {_ADVICE}"
        )
    kept.append(body[begin:])
    return b"".join(kept), found


def _escaped(body: bytes | bytearray, quote: int) -> bool:
    """Tell whether an odd number of backslashes precedes a quote.

    Raises:
        BadRequest: more backslashes than an encoder writes; to count them all would take quadratic time.
    """
    if body[quote - 1] != ord("\\"):
        return False
    before = body[max(0, quote - _MOST_BACKSLASHES) : quote]
    backslashes = len(before) - len(before.rstrip(b"\\"))
    if backslashes == _MOST_BACKSLASHES:
        raise BadRequest(f"Expected fewer than {_MOST_BACKSLASHES} backslashes in a row in JSON.")
    return backslashes % 2 == 1


def _put_back(value: Any, long: dict[str, LongText], levels: int) -> Any:  # noqa: ANN401, JSON
    """Return a value with its long strings in place of their numbers."""
    if isinstance(value, str):
        return long.get(value, value)
    if levels and isinstance(value, list):
        return [_put_back(one, long, levels - 1) for one in value]
    if levels and isinstance(value, dict):
        return {long.get(name, name): _put_back(one, long, levels - 1) for name, one in value.items()}
    return value
