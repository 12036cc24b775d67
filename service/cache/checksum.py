"""A checksum over key and value, so that a truncated, foreign or misplaced value in Redis counts as a miss."""

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
    # Against accidents, not against forgers, who could delete the value as well: the same value under another key has
    # another tag. Key and value are unambiguous: keys of one form have one length but for the output's name, and
    # values of one output one length. SHA-256 since processors have instructions for it.
    tag = sha256(key.encode())
    tag.update(value)
    return tag.digest()[:_TAG_BYTES]
