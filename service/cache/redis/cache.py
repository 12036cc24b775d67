"""Vectors in Redis or Valkey, shared by all gateways, and leases on those that a gateway is computing.

A lease is a second key with a random token, set only if absent and with a time to live, so that of several gateways one
computes each vector. Its gateway releases it with the write of the vector; that of a gateway that dies expires.
Acquiring a lease reads the vector too, in the same round trip and after it: what was written meanwhile is found.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from random import uniform
from secrets import token_hex
from time import monotonic

from service.cache.circuit_breaker import Guard
from service.cache.coalescing import Coalescer
from service.cache.metered import HitCounter
from service.cache.redis.client import Command, RedisServers
from service.core.ports import Acquired
from service.telemetry.metrics import Metrics

_TTL_JITTER = 0.1
_TAG_BYTES = 8
_IN_FLIGHT = 2
"""Acquisitions in flight; with all of them waiting, further keys gather for the next one."""

_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


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


def lease_key(key: str) -> str:
    """Return the key of the lease on a vector: in the same slot of a cluster, and not under the vectors' prefix."""
    return f"mt1-claim:{{{key}}}"


class HeldLeases:
    """The leases that this process holds, each until it is released or expires."""

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        """Hold leases for `seconds` each."""
        self.seconds = seconds
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}

    def add(self, key: str, token: str) -> None:
        """Remember a lease that was acquired just now."""
        now = self._clock()
        # Ordered by expiry, since all last equally long: expired ones are forgotten here.
        while self._held and next(iter(self._held.values()))[1] < now:
            del self._held[next(iter(self._held))]
        self._held.pop(key, None)
        self._held[key] = (token, now + self.seconds)

    def release_commands(self, keys: Iterable[str]) -> list[Command]:
        """Forget the leases on these keys, and return the commands that release them."""
        held = [(key, self._held.pop(key)[0]) for key in keys if key in self._held]
        return [("EVAL", _RELEASE, 1, lease_key(key), token) for key, token in held]


class RedisCache:
    """One MGET for all keys of a request, one pipeline for its writes; values have a checksum, see `seal`."""

    def __init__(self, servers: RedisServers, *, ttl: float, metrics: Metrics, held: HeldLeases | None = None) -> None:
        """Keep vectors there.

        Args:
            servers: where; closed with this cache.
            ttl: seconds that an entry stays, give or take a tenth, so that what was stored together expires apart.
            metrics: count hits, misses and corrupt values.
            held: this process's leases, each released with the write of its vector.
        """
        self._servers = servers
        self._ttl = ttl
        self._metrics = metrics
        self._counter = HitCounter("redis", metrics)
        self._held = held or HeldLeases(1.0)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys, None for absent and for corrupt ones.

        Raises:
            CacheUnavailable: Redis did not answer, or answered with an error.
        """
        if not keys:
            return []
        sealed = await self._servers.read(keys)
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
        stores = [("SET", key, seal(key, value), "PX", self._milliseconds()) for key, value in entries.items()]
        # After the values in the same pipeline: a gateway that finds no lease finds the vector.
        await self._servers.run([*stores, *self._held.release_commands(entries)])

    async def close(self) -> None:
        """Close the connections."""
        await self._servers.close()

    def _milliseconds(self) -> int:
        return max(1, int(1000 * self._ttl * uniform(1 - _TTL_JITTER, 1 + _TTL_JITTER)))  # noqa: S311, jitter is no secret

    def _unsealed(self, key: str, sealed: object) -> bytes | None:
        value = unseal(key, sealed) if isinstance(sealed, bytes) else None
        if value is None:
            self._metrics.cache_spoiled.inc()
        return value


class RedisLeases:
    """Implements the core's `Leases` port. While Redis is down no leases are acquired."""

    def __init__(
        self,
        servers: RedisServers,
        held: HeldLeases,
        *,
        reads: Guard,
        writes: Guard,
        restored: Callable[[bytes], bytes | None] = bytes,
    ) -> None:
        """Lease there.

        Args:
            servers: where the vectors are; closed by their cache.
            held: the leases of this process.
            reads: while it is open nothing is leased.
            writes: guards the calls: without writes there are no leases.
            restored: from a value as it is stored to the vector's bytes, None for what is no vector.
        """
        self._servers = servers
        self._held = held
        self._reads = reads
        self._writes = writes
        self._restored = restored
        self._acquisitions = Coalescer(self._acquire_guarded, _IN_FLIGHT)
        self._releases: set[asyncio.Task[object]] = set()

    @property
    def seconds(self) -> float:
        """How long a lease lasts."""
        return self._held.seconds

    async def acquire(self, keys: Sequence[str]) -> Acquired:
        """Lease what is neither cached nor leased; see the port. The keys of one tick share a round trip."""
        if self._reads.is_open:
            return Acquired()
        acquisition = self._acquisitions.call(keys)
        try:
            return await asyncio.shield(acquisition)
        except asyncio.CancelledError:
            # The caller that it is acquired for has left.
            acquisition.add_done_callback(lambda _: self.release(keys))
            raise

    def release(self, keys: Sequence[str]) -> None:
        """Let others compute these; see the port."""
        commands = self._held.release_commands(keys)
        if commands:
            task = asyncio.create_task(self._writes.call(lambda: self._servers.run(commands)), name="release leases")
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    async def _acquire_guarded(self, keys: list[str]) -> Acquired:
        return await self._writes.call(lambda: self._acquire(keys)) or Acquired()

    async def _acquire(self, keys: list[str]) -> Acquired:
        tokens = {key: token_hex(8) for key in keys}
        milliseconds = max(1, int(1000 * self.seconds))
        commands: list[Command] = []
        for key, token in tokens.items():
            commands += [("SET", lease_key(key), token, "NX", "PX", milliseconds), ("GET", key)]
        answers = await self._servers.run(commands)
        leased = {key for key, answer in zip(keys, answers[::2], strict=True) if answer}
        for key in leased:
            self._held.add(key, tokens[key])
        found = {}
        for key, sealed in zip(keys, answers[1::2], strict=True):
            raw = unseal(key, sealed) if isinstance(sealed, bytes) else None
            if raw is not None and (value := self._restored(raw)):
                found[key] = value
        self.release([key for key in found if key in leased])
        return Acquired(found, frozenset(key for key in keys if key not in leased and key not in found))
