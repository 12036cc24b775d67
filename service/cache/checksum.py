"""Seal values that leave the process, so that a truncated, foreign or misplaced one is recognised as no answer."""

from hashlib import sha256

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
    # another key has another tag. Key and value cannot run into each other: keys of one form have one length but for
    # the output's name, and values of one output one length. SHA-256 since processors have instructions for it.
    tag = sha256(key.encode())
    tag.update(value)
    return tag.digest()[:_TAG_BYTES]
