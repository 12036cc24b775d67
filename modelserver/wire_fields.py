"""The wire form of protobuf messages: walks over fields without parsing them, and puts down what stands before one.

See https://protobuf.dev/programming-guides/encoding. A field that is not looked at is stepped over, and none of its
bytes is read, so that a file can be mapped into memory.
"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Field:
    """Where a field of a message stands: from its tag, its payload, to its end."""

    number: int
    start: int
    payload: int
    end: int


@contextmanager
def mapped(file: Path) -> Iterator[mmap.mmap]:
    """Map a file into memory; ValueError when it is empty."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def fields(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[Field]:
    """Walk over the fields of one message; ValueError when they do not fill it exactly."""
    while start < end:
        tag, payload = _varint(data, start)
        match tag & 7:
            case 0:
                _, after = _varint(data, payload)
            case 1:
                after = payload + 8
            case 2:
                length, payload = _varint(data, payload)
                after = payload + length
            case 5:
                after = payload + 4
            case kind:
                raise ValueError(f"a field of wire type {kind} at byte {start}")
        if after > end:
            raise ValueError(f"a field that begins at byte {start} goes beyond its message")
        yield Field(tag >> 3, start, payload, after)
        start = after


def _varint(data: mmap.mmap | bytes, at: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, lowest first; returns it and where it ends."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
        if shift > 63:
            raise ValueError(f"a number that does not end at byte {at}")


def opening(number: int, length: int) -> bytes:
    """Write what stands before the ``length`` bytes of a field: its tag, for wire type 2, and the length."""
    return varint(number << 3 | 2) + varint(length)


def varint(number: int) -> bytes:
    """Write a number as protobuf does: seven bits a byte, lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
