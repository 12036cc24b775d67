"""Claims on vectors that are being computed, in Redis or Valkey, so that of several gateways one computes each.

A claim is a key beside the vector's with a random token in it, set only if absent and for the length of a lease. It is
given back with the write of the vector, and only by whoever set it; of a gateway that dies it ends with its lease.
Taking a claim looks for the vector too, in the same round trip and after it: what was written meanwhile is found.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from secrets import token_hex
from time import monotonic
from typing import Any

from service.cache.checksum import unseal
from service.cache.coalescing import Coalescer
from service.cache.guard import Guard
from service.cache.redis.client import Command, RedisServers
from service.core.ports import Taken

_TAKES = 2
"""Calls in flight; with all of them waiting, further keys gather for the next one."""

_GIVE_BACK = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


def claim_key(key: str) -> str:
    """Where the claim on a vector's key stands: in the same slot of a cluster, and not where the vectors are."""
    return f"mt1-claim:{{{key}}}"


class HeldClaims:
    """The claims that this process holds, each until it is given back or its lease is over."""

    def __init__(self, lease: float, clock: Callable[[], float] = monotonic) -> None:
        """Hold claims for `lease` seconds each."""
        self.lease = lease
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}

    def add(self, key: str, token: str) -> None:
        """Remember a claim that was taken just now."""
        now = self._clock()
        # The oldest stand first, and all have the same lease: those that nobody gave back are forgotten here.
        while self._held and next(iter(self._held.values()))[1] < now:
            del self._held[next(iter(self._held))]
        self._held.pop(key, None)
        self._held[key] = (token, now + self.lease)

    def releases(self, keys: Iterable[str]) -> list[Command]:
        """Forget the claims on these keys, and return the commands that give them back."""
        held = [(key, self._held.pop(key)[0]) for key in keys if key in self._held]
        return [("EVAL", _GIVE_BACK, 1, claim_key(key), token) for key, token in held]


class RedisClaims:
    """Implements the core's `Claims` port. Redis in trouble means that nobody claims anything."""

    def __init__(
        self,
        servers: RedisServers,
        held: HeldClaims,
        *,
        reads: Guard,
        writes: Guard,
        restored: Callable[[bytes], bytes | None] = bytes,
    ) -> None:
        """Claim there.

        Args:
            servers: where the vectors are; closed by their cache.
            held: what is claimed here.
            reads: while it is open nothing is claimed.
            writes: guards the calls, since who cannot write cannot claim.
            restored: from a value as it is stored to the vector's bytes, None for what is no vector.
        """
        self._servers = servers
        self._held = held
        self._reads = reads
        self._writes = writes
        self._restored = restored
        self._takes = Coalescer(self._take, _TAKES)
        self._running: set[asyncio.Task[None]] = set()

    @property
    def lease(self) -> float:
        """Seconds that a claim lasts."""
        return self._held.lease

    async def take(self, keys: Sequence[str]) -> Taken:
        """Claim what is neither there nor claimed; see the port. What is wanted in one tick is one round trip."""
        if self._reads.is_open:
            return Taken()
        taking = self._takes.call(keys)
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            # Claimed for somebody who has gone.
            taking.add_done_callback(lambda _: self.give_back(keys))
            raise

    def give_back(self, keys: Sequence[str]) -> None:
        """Let others compute these; see the port."""
        commands = self._held.releases(keys)
        if commands:
            self._start(self._give_back(commands))

    async def _take(self, keys: list[str]) -> Taken:
        return await self._writes.call(lambda: self._taken(keys)) or Taken()

    async def _taken(self, keys: list[str]) -> Taken:
        tokens = {key: token_hex(8) for key in keys}
        lease = max(1, int(1000 * self._held.lease))
        commands: list[Command] = []
        for key, token in tokens.items():
            commands += [("SET", claim_key(key), token, "NX", "PX", lease), ("GET", key)]
        answers = await self._servers.run(commands)
        claimed = {key for key, answer in zip(keys, answers[::2], strict=True) if answer}
        for key in claimed:
            self._held.add(key, tokens[key])
        found = self._values(keys, answers[1::2])
        self.give_back([key for key in found if key in claimed])
        return Taken(found, frozenset(key for key in keys if key not in claimed and key not in found))

    def _values(self, keys: Sequence[str], sealed: Sequence[Any]) -> Mapping[str, bytes]:
        values = zip(keys, sealed, strict=True)
        plain = {key: unseal(key, value) for key, value in values if isinstance(value, bytes)}
        return {key: value for key, raw in plain.items() if raw is not None and (value := self._restored(raw))}

    async def _give_back(self, commands: Sequence[Command]) -> None:
        await self._writes.call(lambda: self._servers.run(commands))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="claims")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
