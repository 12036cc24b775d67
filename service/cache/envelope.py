"""Seal values that leave the process, so that a truncated, foreign or misplaced one is recognised as no answer."""

from hashlib import blake2b

_TAG_BYTES = 8


def seal(key: str, value: bytes) -> bytes:
    """Put a tag over key and value in front of the value."""
    return _tag(key, value) + value


def unseal(key: str, sealed: bytes) -> bytes | None:
    """Return the value, or None when these bytes are not what `seal` made for this key."""
    value = sealed[_TAG_BYTES:]
    return value if sealed[:_TAG_BYTES] == _tag(key, value) else None


def _tag(key: str, value: bytes) -> bytes:
    # Not against forgers (who can write to Redis can delete from it), but against accidents: the same value under
    # another key has another tag.
    return blake2b(value, digest_size=_TAG_BYTES, key=blake2b(key.encode(), digest_size=16).digest()).digest()
