"""Protobuf's wire format by hand: around large fields that would be copied, and for small messages written often.

See https://protobuf.dev/programming-guides/encoding.
"""


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
