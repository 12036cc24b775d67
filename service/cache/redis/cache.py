"""The second tier: vectors in Redis or Valkey, shared by all gateways."""

from collections.abc import Mapping, Sequence
from random import uniform

from service.cache.checksum import seal, unseal
from service.cache.leases import HeldLeases
from service.cache.redis.client import RedisServers
from service.telemetry.metrics import Metrics

_TTL_JITTER = 0.1


class RedisCache:
    """One MGET for all keys of a request, one pipeline for its writes; values have a checksum, see `checksum.py`."""

    def __init__(self, servers: RedisServers, *, ttl: float, metrics: Metrics, held: HeldLeases | None = None) -> None:
        """Keep vectors there.

        Args:
            servers: where; closed with this cache.
            ttl: seconds that an entry stays, give or take a tenth, so that what was stored together expires apart.
            metrics: counts values that are not what was stored.
            held: this process's leases, each released with the write of its vector.
        """
        self._servers = servers
        self._ttl = ttl
        self._metrics = metrics
        self._held = held or HeldLeases(1.0)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys, None for absent and for corrupt ones.

        Raises:
            CacheUnavailable: Redis did not answer, or answered with an error.
        """
        if not keys:
            return []
        values = await self._servers.read(keys)
        return [None if value is None else self._unsealed(key, value) for key, value in zip(keys, values, strict=True)]

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
