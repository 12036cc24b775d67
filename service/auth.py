"""API keys, stored as hashes and compared in constant time. Knows no transport.

Keys are long random strings, so one SHA-256 is enough: there is no dictionary to try, and a slow hash would let
strangers use up our CPU. A name may have several keys, so that a new one is in use before the old one is removed.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from microtome.errors import Unauthenticated
from service.core.admission import Budget

FORM = "NAME sha256:HASH [images=N] [bytes=N]"
"""The form of a key's line; HASH is what `printf %s "$KEY" | sha256sum` prints."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key: its owner's name, its SHA-256, and what the name may have in flight; None means no limit of its own."""

    name: str
    digest: bytes
    images: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """The name that a request comes from, and the budgets that all its requests share."""

    name: str
    images: Budget | None = None
    bodies: Budget | None = None


class Keyring:
    """The known keys."""

    def __init__(self, records: Sequence[KeyRecord]) -> None:
        callers = {record.name: _caller(record) for record in records}
        self._keys = [(record.digest, callers[record.name]) for record in records]

    def identify(self, key: str | None) -> Caller:
        """Return the caller that a key belongs to.

        Every known hash is compared, so that the time tells nothing of the keys.

        Raises:
            Unauthenticated: no key, or an unknown one.
        """
        if not key:
            raise Unauthenticated("Expected an API key: Authorization: Bearer <key>, or X-API-Key: <key>.")
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = [caller for known, caller in self._keys if hmac.compare_digest(known, digest)]
        if not found:
            raise Unauthenticated("The API key is not known here. Ask the operator for one.")
        return found[0]


def key_in(authorization: str, api_key: str | None) -> str | None:
    """Return the key of a request, over HTTP or gRPC: `Authorization: Bearer …`, else `X-API-Key`."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else api_key


def _caller(record: KeyRecord) -> Caller:
    return Caller(
        record.name,
        Budget(record.images, f"images of {record.name}", reason="key-images") if record.images else None,
        Budget(record.bytes, f"bytes of {record.name}", reason="key-bytes") if record.bytes else None,
    )


def read_keys(lines: Iterable[str]) -> list[KeyRecord]:
    """Read keys, one a line; empty lines and what follows a `#` are ignored.

    Raises:
        ValueError: a line of another form, or two lines of one name with different limits; no secret is in the message.
    """
    records: list[KeyRecord] = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if words:
            records.append(_record(number, words))
    limits: dict[str, tuple[int | None, int | None]] = {}
    for record in records:
        if limits.setdefault(record.name, (record.images, record.bytes)) != (record.images, record.bytes):
            raise ValueError(f"keys of {record.name!r} have different limits; give all of them the same")
    return records


def _record(number: int, words: Sequence[str]) -> KeyRecord:
    name, *rest = words
    digest = _HASH.fullmatch(rest[0]) if rest else None
    limits: dict[str, int] = {}
    for word in rest[1:]:
        option, _, value = word.partition("=")
        if option not in {"images", "bytes"} or not value.isdecimal() or int(value) < 1:
            raise ValueError(f"key {number}: expected {FORM}; one of the limits is something else")
        limits[option] = int(value)
    if not _NAME.fullmatch(name) or digest is None:
        # The line may be a key in clear: it must not reach a log.
        raise ValueError(f"key {number}: expected {FORM}, the hash in 64 small hexadecimal digits")
    return KeyRecord(name, bytes.fromhex(digest[1]), **limits)
