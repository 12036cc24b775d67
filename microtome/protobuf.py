"""Protobuf's wire format by hand: around large fields, for small messages written often, and to count what one holds.

Large fields would be copied, and a stranger's message is counted before objects are made of it. See
https://protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator
from mmap import mmap

VARINT, BYTES = 0, 2
"""Wire types of numbers, and of what states its length: bytes, text, messages and packed lists."""

_SIZES = {1: 8, 5: 4}
"""Of the wire types that have one."""

_GROUPS = {3, 4}


def fields(raw: bytes | mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Walk over the fields of a message; makes nothing of their content.

    Args:
        raw: holds the message.
        at: where it begins.
        end: where it ends.

    Yields:
        Number and wire type of a field, and where its content begins and ends; the marks of a group have none.

    Raises:
        ValueError: the bytes are no message.
    """
    while at < end:
        tag, at = read_varint(raw, at)
        form, begin = tag & 7, at
        if form == BYTES:
            size, begin = read_varint(raw, at)
            at = begin + size
        elif form == VARINT:
            _, at = read_varint(raw, at)
        elif form in _SIZES:
            at += _SIZES[form]
        elif form not in _GROUPS:
            raise ValueError(f"Expected a wire type up to 5, received {form}.")
        if at > end:
            raise ValueError("A field is cut short.")
        yield tag >> 3, form, begin, at


def read_varint(raw: bytes | mmap, at: int) -> tuple[int, int]:
    """Read a number, and return it and where it ends.

    Raises:
        ValueError: there is none.
    """
    number = 0
    for shift in range(0, 70, 7):
        if at == len(raw):
            raise ValueError("A number is cut short.")
        byte = raw[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError("Expected a number of at most ten bytes.")


def field_prefix(number: int, size: int) -> bytes:
    """Return what precedes a field of bytes, text or a message: its tag and its length.

    Args:
        number: of the field, below 16.
        size: bytes of its content.
    """
    return bytes([number << 3 | 2]) + varint(size)


def varint(number: int) -> bytes:
    """Write a number that is not negative."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


def after_varint(data: bytes) -> bytes:
    """Return what follows the varint at the beginning; empty if it does not end."""
    for end, byte in enumerate(data, start=1):
        if byte < 0x80:
            return data[end:]
    return b""
