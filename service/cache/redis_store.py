"""The second tier: vectors in Redis or Valkey, shared by all gateways."""

from collections.abc import Mapping, Sequence
from random import uniform

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.cache.envelope import seal, unseal
from service.errors import CacheUnavailable
from service.telemetry.metrics import Metrics

_TTL_JITTER = 0.1


class RedisCache:
    """One MGET for all keys of a request, one pipeline for its writes; values sealed, see `envelope.py`."""

    def __init__(self, url: str, *, ttl: float, timeout: float, metrics: Metrics) -> None:
        """Connects when first used.

        Args:
            url: redis://, rediss:// or unix://, with password and database if any.
            ttl: seconds that an entry stays, give or take a tenth, so that what was stored together expires apart.
            timeout: seconds for connecting and for each answer.
            metrics: counts values that are not what was stored.
        """
        # No retries: the caller's budget is one timeout, and a cache that fails is a cache that misses.
        self._redis = Redis.from_url(
            url,
            socket_connect_timeout=timeout,
            socket_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            client_name="microtome",
        )
        self._ttl = ttl
        self._metrics = metrics

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys, None for absent and for spoiled ones.

        Raises:
            CacheUnavailable: Redis did not answer, or answered with an error.
        """
        try:
            values = await self._redis.mget(keys)
        except (RedisError, OSError) as error:
            raise CacheUnavailable(f"{type(error).__name__}: {error}") from error
        return [None if value is None else self._unsealed(key, value) for key, value in zip(keys, values, strict=True)]

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values.

        Raises:
            CacheUnavailable: Redis did not answer, or answered with an error.
        """
        ttl = int(self._ttl * uniform(1 - _TTL_JITTER, 1 + _TTL_JITTER) * 1000)  # noqa: S311, jitter is no secret
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key, value in entries.items():
                    pipeline.set(key, seal(key, value), px=max(1, ttl))
                await pipeline.execute()
        except (RedisError, OSError) as error:
            raise CacheUnavailable(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def _unsealed(self, key: str, sealed: bytes | str) -> bytes | None:
        # Typed so by redis-py, whose client decodes answers when told to; ours is not.
        value = unseal(key, sealed) if isinstance(sealed, bytes) else None
        if value is None:
            self._metrics.cache_spoiled.inc()
        return value
