"""Protobuf by hand, around what is large and would be copied, or what is small and written often.

See protobuf.dev/programming-guides/encoding.
"""


def opening(field: int, size: int) -> bytes:
    """Write the tag of a field of bytes, text or a message, and how many bytes follow."""
    written = bytearray([field << 3 | 2])
    while size > 127:
        written.append(size & 127 | 128)
        size >>= 7
    written.append(size)
    return bytes(written)
