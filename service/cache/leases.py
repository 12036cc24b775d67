"""Leases on vectors that are being computed, in Redis or Valkey, so that of several gateways one computes each.

A lease is a second key with a random token, set only if absent and with a time to live. Its gateway releases it with
the write of the vector; that of a gateway that dies expires. Acquiring a lease reads the vector too, in the same
round trip and after it: what was written meanwhile is found.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from secrets import token_hex
from time import monotonic

from service.cache.checksum import unseal
from service.cache.circuit_breaker import Guard
from service.cache.coalescing import Coalescer
from service.cache.redis.client import Command, RedisServers
from service.core.ports import Acquired

_IN_FLIGHT = 2
"""Calls in flight; with all of them waiting, further keys gather for the next one."""

_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


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
