"""API keys, stored as hashes and compared in constant time, and what their owners may do. Knows no transport.

Keys are long random strings, so one SHA-256 is enough: there is no dictionary to try, and a slow hash would let
strangers use up our CPU. A name may have several keys, so that a new one is in use before the old one is removed.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from time import time
from typing import Protocol

from microtome.errors import Overloaded, TooManyImages, Unauthenticated
from service.core.admission import Budget
from service.core.requests import EmbedRequest

FORM = (
    "NAME sha256:HASH [images=N] [bytes=N] [requests_per_minute=N] [images_per_minute=N] [cache=private] "
    "[priority=bulk]"
)
"""The form of a key's line; HASH is what `printf %s "$KEY" | sha256sum` prints."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")

_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What the owner of a key may do; None means no limit.

    Attributes:
        images: in flight at a time.
        bytes: of bodies in flight at a time.
        requests_per_minute: that embed, of all gateways together.
        images_per_minute: likewise.
        private: whether it uses only vectors that its own requests have computed.
        bulk: whether all its requests let interactive ones pass.
    """

    images: int | None = None
    bytes: int | None = None
    requests_per_minute: int | None = None
    images_per_minute: int | None = None
    private: bool = False
    bulk: bool = False

    def over(self, defaults: "KeyLimits") -> "KeyLimits":
        """Return these limits, with defaults where there is none."""
        return KeyLimits(
            self.images or defaults.images,
            self.bytes or defaults.bytes,
            self.requests_per_minute or defaults.requests_per_minute,
            self.images_per_minute or defaults.images_per_minute,
            self.private or defaults.private,
            self.bulk or defaults.bulk,
        )


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key: its owner's name, its SHA-256, and what the owner may do."""

    name: str
    digest: bytes
    limits: KeyLimits = KeyLimits()


class MinuteCounts(Protocol):
    """Counts of what the owners of keys did in this minute and the one before."""

    async def add(self, name: str, minute: int, requests: int, images: int) -> Sequence[int] | None:
        """Add to the counts of a minute; negative numbers take back.

        Returns:
            Requests and images of that minute, these included, and of the minute before; None when they cannot be
            counted now.
        """
        ...


class LocalCounts:
    """The counts of this process alone, for a gateway without Redis."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], list[int]] = {}

    async def add(self, name: str, minute: int, requests: int, images: int) -> Sequence[int]:
        """Add to the counts of a minute; see the protocol."""
        if (name, minute) not in self._counts:
            self._counts = {key: counts for key, counts in self._counts.items() if key[1] >= minute - 1}
        now = self._counts.setdefault((name, minute), [0, 0])
        now[0] += requests
        now[1] += images
        return [*now, *self._counts.get((name, minute - 1), (0, 0))]


class Rate:
    """Requests and images a minute of one name, over a sliding minute: the last one counts by the part still in it.

    While it cannot be counted, everything is admitted: a Redis that is down costs no request.
    """

    def __init__(
        self,
        name: str,
        limits: KeyLimits,
        counts: MinuteCounts,
        on_uncounted: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time,
    ) -> None:
        """Allow what the limits have.

        Args:
            name: of the owner.
            limits: of which those of a minute count.
            counts: of all gateways.
            on_uncounted: called for each request that is admitted since it could not be counted.
            clock: seconds since the epoch, which gateways share.
        """
        self._name = name
        self._limits = {"requests": limits.requests_per_minute, "images": limits.images_per_minute}
        self._counts = counts
        self._on_uncounted = on_uncounted
        self._clock = clock
        self._refused_until: dict[str, float] = {}

    def require(self, *kinds: str) -> None:
        """Refuse a request, before its body is read, while it is known that the least would be too much.

        Args:
            kinds: `requests`, `images`; none means both.

        Raises:
            Overloaded: see `take`.
        """
        for kind in kinds or self._refused_until:
            left = self._refused_until.get(kind, 0.0) - self._clock()
            if left > 0:
                raise self._refusal(kind, left)

    async def take(self, images: int, requests: int = 1) -> None:
        """Count a request and its images.

        Raises:
            Overloaded: it would be more than a minute allows; with the seconds until it would not.
            TooManyImages: a request of so many images is never allowed.
        """
        asked = {"requests": requests, "images": images}
        self.require(*(kind for kind, amount in asked.items() if amount))
        most = self._limits["images"]
        if most is not None and images > most:
            raise TooManyImages(
                f"Expected at most {most} images, which is what {self._name} may embed in a minute; received {images}."
            )
        now = self._clock()
        minute, elapsed = int(now // _MINUTE), now % _MINUTE
        counted = await self._counts.add(self._name, minute, requests, images)
        if counted is None:
            self._on_uncounted()
            return
        longest, refused_for = 0.0, ""
        for kind, total, before in zip(asked, counted[:2], counted[2:], strict=True):
            limit, others = self._limits[kind], total - asked[kind]
            if limit is None or not asked[kind]:
                continue
            wait = _seconds_until(limit, others, before, asked[kind], elapsed)
            if wait > longest:
                longest, refused_for = wait, kind
            # Where it is too much for the least, too, no further request is counted until then.
            self._refused_until[kind] = now + _seconds_until(limit, others, before, 1, elapsed)
        if refused_for:
            await self._counts.add(self._name, minute, -requests, -images)
            raise self._refusal(refused_for, longest)

    def _refusal(self, kind: str, seconds: float) -> Overloaded:
        return Overloaded(
            f"{self._name} may embed {self._limits[kind]} {kind} a minute. Try again in {ceil(seconds)} s.",
            retry_after=seconds,
            reason=f"key-{kind}-per-minute",
        )


def _seconds_until(limit: int, others: int, before: int, amount: int, elapsed: float) -> float:
    """Return the seconds until an amount fits into a sliding minute; 0 if it does now.

    Args:
        limit: of a minute.
        others: counted in this minute.
        before: counted in the last one, of which the part counts that is less than a minute ago.
        amount: at most the limit.
        elapsed: seconds of this minute.
    """
    room = limit - amount - others
    if room >= 0:
        return max(0.0, _MINUTE * (1 - room / before) - elapsed) if before else 0.0
    # In the next minute, of which this one is the last.
    return _MINUTE - elapsed + _MINUTE * (1 - (limit - amount) / others)


@dataclass(frozen=True, slots=True)
class Caller:
    """The name that a request comes from, and what all its requests share.

    Attributes:
        images: in flight.
        bodies: bytes of bodies in flight.
        rate: requests and images a minute.
        private: whether all its requests use only its own vectors.
        bulk: whether all its requests let interactive ones pass.
    """

    name: str
    images: Budget | None = None
    bodies: Budget | None = None
    rate: Rate | None = None
    private: bool = False
    bulk: bool = False


def asked_by(caller: Caller | None, request: EmbedRequest) -> EmbedRequest:
    """Return a caller's request: with the caller as tenant where it uses its own vectors only; bulk if it has to be."""
    if caller is None:
        return request
    request = request.of_tenant(caller.name, always=caller.private)
    return replace(request, priority="bulk") if caller.bulk else request


class Keyring:
    """The known keys.

    Args:
        records: at least one.
        counts: of the minute, for names with a rate.
        on_uncounted: called for each request that could not be counted.
    """

    def __init__(
        self,
        records: Sequence[KeyRecord],
        counts: MinuteCounts | None = None,
        on_uncounted: Callable[[], object] = lambda: None,
    ) -> None:
        counts = counts or LocalCounts()
        callers = {record.name: _caller(record, counts, on_uncounted) for record in records}
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


def _caller(record: KeyRecord, counts: MinuteCounts, on_uncounted: Callable[[], object]) -> Caller:
    name, limits = record.name, record.limits
    rated = limits.requests_per_minute or limits.images_per_minute
    return Caller(
        name,
        Budget(limits.images, f"images of {name}", reason="key-images") if limits.images else None,
        Budget(limits.bytes, f"bytes of {name}", reason="key-bytes") if limits.bytes else None,
        Rate(name, limits, counts, on_uncounted) if rated else None,
        limits.private,
        limits.bulk,
    )


def with_defaults(records: Sequence[KeyRecord], defaults: KeyLimits) -> list[KeyRecord]:
    """Return keys with the limits that hold where a key's own line has none."""
    return [replace(record, limits=record.limits.over(defaults)) for record in records]


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
    limits: dict[str, KeyLimits] = {}
    for record in records:
        if limits.setdefault(record.name, record.limits) != record.limits:
            raise ValueError(f"keys of {record.name!r} have different limits; give all of them the same")
    return records


def _record(number: int, words: Sequence[str]) -> KeyRecord:
    name, *rest = words
    digest = _HASH.fullmatch(rest[0]) if rest else None
    limits: dict[str, int] = {}
    flags: set[str] = set()
    for word in rest[1:]:
        option, _, value = word.partition("=")
        if word in {_PRIVATE, _BULK}:
            flags.add(word)
        elif option in _LIMITS and _NUMBER.fullmatch(value):
            limits[option] = int(value)
        else:
            raise ValueError(f"key {number}: expected {FORM}; one of the limits is something else")
    if not _NAME.fullmatch(name) or digest is None:
        # The line may be a key in clear: it must not reach a log.
        raise ValueError(f"key {number}: expected {FORM}, the hash in 64 small hexadecimal digits")
    return KeyRecord(
        name, bytes.fromhex(digest[1]), KeyLimits(**limits, private=_PRIVATE in flags, bulk=_BULK in flags)
    )


_PRIVATE, _BULK = "cache=private", "priority=bulk"
_LIMITS = {"images", "bytes", "requests_per_minute", "images_per_minute"}
