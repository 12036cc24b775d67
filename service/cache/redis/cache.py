"""What gateways share in Redis or Valkey: vectors, leases on those that one is computing, and counts by the minute.

A lease is a second key, set only if absent and with a time to live, so that of several gateways one computes each
vector. Its gateway releases it with the write of the vector; that of a gateway that dies expires. Acquiring a lease
reads the vector too, in the same round trip and after it: what was written meanwhile is found.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from hmac import compare_digest, digest
from random import uniform
from time import monotonic

from service.cache.circuit_breaker import FailOpenCache, Guard
from service.cache.coalescing import Coalescer
from service.cache.memory import all_finite
from service.cache.metered import HitCounter
from service.cache.redis.client import Command, CommandRefused, Notice, RedisServers
from service.core.ports import Acquired
from service.errors import CacheUnavailable
from service.telemetry.metrics import Metrics

_TTL_JITTER = 0.1
_IN_FLIGHT = 2
"""Acquisitions in flight; with all of them waiting, further keys gather for the next one."""

_TAKEN, _FREE = "1", ""
"""What a lease holds while it lasts, and in the millisecond that releasing it leaves to it."""

_DISTRUST = 12
"""Lengths of a lease for which no lease is waited for, after one that outlived its time."""


class Seal:
    """Puts a tag over key and value in front of each value, and checks it.

    With a secret the tag is an HMAC: who does not know it cannot make a value, nor move one to another key. Without it
    the tag is a plain hash: against accidents. Entries of each secret have keys of their own, so that gateways with
    another secret, or none, miss them instead of overwriting each other's.
    """

    def __init__(self, secret: bytes = b"") -> None:
        """Seal with a secret, or without one."""
        self._secret = secret
        self._suffix = f"~{digest(secret, b'microtome cache key', 'sha256').hex()[:8]}" if secret else ""
        self._bytes = 16 if secret else 8

    def name(self, key: str) -> str:
        """Return the name in Redis of the entry with this key."""
        return key + self._suffix

    def wrap(self, key: str, value: bytes) -> bytes:
        """Put the tag in front of the value."""
        return self._tag(key, value) + value

    def unwrap(self, key: str, sealed: object) -> bytes | None:
        """Return the value, or None when these bytes are not what `wrap` made of finite numbers for this key."""
        if not isinstance(sealed, bytes):
            return None
        value = sealed[self._bytes :]
        valid = compare_digest(sealed[: self._bytes], self._tag(key, value)) and all_finite(value)
        return value if valid else None

    def _tag(self, key: str, value: bytes) -> bytes:
        if self._secret:
            # The length first: no part of a value can be read as part of a key.
            name = key.encode()
            return digest(self._secret, b"%d:%b%b" % (len(name), name, value), "sha256")[:16]
        # Keys of one form have one length but for the output's name, and values of one output one length. SHA-256 since
        # processors have instructions for it.
        tag = sha256(key.encode())
        tag.update(value)
        return tag.digest()[:8]


def lease_key(key: str) -> str:
    """Return the key of the lease on a vector, which is not under the vectors' prefix."""
    return f"mt1-claim:{{{key}}}"


class HeldLeases:
    """The leases that this process holds, each until it is released or expires."""

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        """Hold leases for `seconds` each."""
        self.seconds = seconds
        self._clock = clock
        self._held: dict[str, float] = {}

    def add(self, key: str) -> None:
        """Remember a lease that was acquired just now."""
        now = self._clock()
        # Ordered by expiry, since all last equally long: expired ones are forgotten here.
        while self._held and next(iter(self._held.values())) < now:
            del self._held[next(iter(self._held))]
        self._held.pop(key, None)
        self._held[key] = now + self.seconds

    def release_commands(self, keys: Iterable[str], name: Callable[[str], str]) -> list[Command]:
        """Forget the leases on these keys, and return the commands that release them, by the names of the vectors.

        SET with a millisecond to live: it needs no more permission than storing a vector, as DEL and scripts do. One
        that expired meanwhile is another gateway's: releasing that would cost an inference at most.
        """
        now = self._clock()
        held = [key for key in keys if self._held.pop(key, 0.0) > now]
        return [("SET", lease_key(name(key)), _FREE, "PX", 1) for key in held]


class RedisCache:
    """One MGET for all keys of a request, one pipeline for its writes; values are sealed, see `Seal`."""

    def __init__(
        self,
        servers: RedisServers,
        *,
        ttl: float,
        metrics: Metrics,
        held: HeldLeases | None = None,
        seal: Seal | None = None,
    ) -> None:
        """Keep vectors there.

        Args:
            servers: where; closed with this cache.
            ttl: seconds that an entry stays, give or take a tenth, so that what was stored together expires apart.
            metrics: count hits, misses and corrupt values.
            held: this process's leases, each released with the write of its vector.
            seal: of the values.
        """
        self._servers = servers
        self._ttl = ttl
        self._metrics = metrics
        self._counter = HitCounter("redis", metrics)
        self._held = held or HeldLeases(1.0)
        self._seal = seal or Seal()

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys, None for absent and for corrupt ones.

        Raises:
            CacheUnavailable: Redis did not answer, or answered with an error.
        """
        if not keys:
            return []
        sealed = await self._servers.read([self._seal.name(key) for key in keys])
        values = [
            None if value is None else self._unsealed(key, value) for key, value in zip(keys, sealed, strict=True)
        ]
        self._counter.count(values)
        return values

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values, and release the leases on them.

        Raises:
            CacheUnavailable: Redis did not answer, or answered with an error.
        """
        seal = self._seal
        stores = [
            ("SET", seal.name(key), seal.wrap(key, value), "PX", self._milliseconds()) for key, value in entries.items()
        ]
        # After the values in the same pipeline: a gateway that finds no lease finds the vector.
        await self._servers.run([*stores, *self._held.release_commands(entries, seal.name)])

    async def close(self) -> None:
        """Close the connections."""
        await self._servers.close()

    def _milliseconds(self) -> int:
        return max(1, int(1000 * self._ttl * uniform(1 - _TTL_JITTER, 1 + _TTL_JITTER)))  # noqa: S311, jitter is no secret

    def _unsealed(self, key: str, sealed: bytes) -> bytes | None:
        value = self._seal.unwrap(key, sealed)
        if value is None:
            self._metrics.cache_spoiled.inc()
        return value


class RedisLeases:
    """Implements the core's `Leases` port. While Redis is down or refuses them no leases are acquired.

    Redis is shared, and a lease is a key that all who can write to it may set. So one that outlives its time is ended,
    and in the time after it none is waited for.
    """

    def __init__(  # noqa: PLR0913, collaborators
        self,
        servers: RedisServers,
        held: HeldLeases,
        *,
        guards: FailOpenCache,
        notice: Notice = lambda _name, _text: None,
        seal: Seal | None = None,
        restored: Callable[[bytes], bytes | None] = bytes,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Lease there.

        Args:
            servers: where the vectors are; closed by their cache.
            held: the leases of this process.
            guards: of the same servers: `claims` guards acquiring, for which callers wait, and `writes` ending leases;
                while reads or writes are left alone nothing is leased, since no other gateway would find the vector.
            notice: is told that leases are refused, or not trusted.
            seal: of the values.
            restored: from a value as it is stored to the vector's bytes, None for what is no vector.
            clock: seconds.
        """
        self._servers = servers
        self._held = held
        self._guards = guards
        self._notice = notice
        self._seal = seal or Seal()
        self._restored = restored
        self._clock = clock
        self._distrusted_until = 0.0
        self._refused = False
        self._acquisitions = Coalescer(self._acquire_guarded, _IN_FLIGHT, unwanted=self.release)
        self._releases: set[asyncio.Task[object]] = set()

    @property
    def seconds(self) -> float:
        """How long a lease lasts."""
        return self._held.seconds

    async def acquire(self, keys: Sequence[str]) -> Acquired:
        """Lease what is neither cached nor leased; see the port. The keys of one tick share a round trip."""
        if self._guards.reads.is_open or self._guards.writes.is_open or self._clock() < self._distrusted_until:
            return Acquired()
        acquisition = self._acquisitions.call(keys)
        try:
            return await acquisition
        except asyncio.CancelledError:
            # Its caller has left in the turn in which the answer came; before, they are unwanted.
            if not acquisition.cancelled():
                self.release(keys)
            raise

    def release(self, keys: Sequence[str]) -> None:
        """Let others compute these; see the port."""
        self._send(self._held.release_commands(keys, self._seal.name))

    def outlived(self, keys: Sequence[str]) -> None:
        """End these leases of others, and trust none for a while; see the port."""
        now = self._clock()
        if now >= self._distrusted_until:
            self._notice(
                "claims", f"A vector claimed elsewhere did not come in {self.seconds:g} s; none is waited for now"
            )
        self._distrusted_until = now + _DISTRUST * self.seconds
        self._send([("SET", lease_key(self._seal.name(key)), _FREE, "PX", 1) for key in keys])

    def _send(self, commands: Sequence[Command]) -> None:
        async def sent() -> None:
            with suppress(CommandRefused):
                await self._servers.run(commands)

        if commands:
            # As a write, since nothing waits for it.
            task = asyncio.create_task(self._guards.writes.call(sent), name="end leases")
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    async def _acquire_guarded(self, keys: list[str]) -> Acquired:
        return await self._guards.claims.call(lambda: self._acquire(keys)) or Acquired()

    async def _acquire(self, keys: list[str]) -> Acquired:
        milliseconds = max(1, int(1000 * self.seconds))
        names = [self._seal.name(key) for key in keys]
        wanted: list[Command] = [("SET", lease_key(name), _TAKEN, "NX", "PX", milliseconds) for name in names]
        try:
            answers, values = await self._servers.run_and_read(wanted, names)
        except CommandRefused as error:
            if not self._refused:
                self._refused = True
                self._notice("claims", f"Gateways may compute the same vector twice, since claims are refused: {error}")
            return Acquired()
        leased = {key for key, answer in zip(keys, answers, strict=True) if answer}
        for key in leased:
            self._held.add(key)
        found = {}
        for key, sealed in zip(keys, values, strict=True):
            raw = self._seal.unwrap(key, sealed)
            if raw is not None and (value := self._restored(raw)):
                found[key] = value
        self.release([key for key in found if key in leased])
        return Acquired(found, frozenset(key for key in keys if key not in leased and key not in found))


class SharedCounts:
    """Counts by the minute in Redis, of all gateways that share it; over connections of their own.

    Args:
        servers: of Redis.
        guard: bounds the time, and leaves Redis alone after a failure.
    """

    def __init__(self, servers: RedisServers, guard: Guard) -> None:
        self._servers = servers
        self._guard = guard

    async def add(self, name: str, minute: int, requests: int, images: int) -> Sequence[int] | None:
        """Add to the counts of a minute; see `service.auth.MinuteCounts`."""
        return await self._guard.call(lambda: self._add(name, minute, requests, images))

    async def _add(self, name: str, minute: int, requests: int, images: int) -> Sequence[int]:
        # In braces what a cluster finds the slot by: both minutes in one.
        now, before = (f"mt1-rate:{{{name}}}:{number}" for number in (minute, minute - 1))
        answers = await self._servers.run(
            [
                ("HINCRBY", now, "requests", requests),
                ("HINCRBY", now, "images", images),
                ("EXPIRE", now, 180),
                ("HMGET", before, "requests", "images"),
            ]
        )
        try:
            return [int(answers[0]), int(answers[1]), *(int(value or 0) for value in answers[3])]
        except (TypeError, ValueError):
            raise CacheUnavailable(f"Expected counts, received {str(answers)[:100]}") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._servers.close()
