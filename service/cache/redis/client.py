"""Speak to Redis or Valkey, be it one server, the master that Sentinel names, or a cluster: read, run, close.

Whatever goes wrong there is `CacheUnavailable`; nothing above knows redis-py.
"""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from service.cache.redis.line import Command, Lines
from service.cache.redis.options import Options, options
from service.cache.redis.url import Place, place
from service.errors import CacheUnavailable

_CLIENT = "microtome"
_LONGEST_REASON = 200
_CLUSTER_SECONDS = 5.0
"""For getting to know a cluster, which happens beside the requests."""


class RedisServers:
    """One or many servers. Connects when first used; needs a running event loop then."""

    def __init__(self, url: str, *, timeout: float) -> None:
        """Take the address; see `redis_url.py`.

        Args:
            url: where, with password and database if any.
            timeout: seconds for connecting and for each answer.

        Raises:
            ValueError: the address has another form.
        """
        self._client, self._sentinel = _opened(place(url), timeout)
        self._lookups: Lines | None = None
        self._others: Lines | None = None
        if isinstance(self._client, Redis):
            # Two, since a server that refuses writes, which ends their line, still answers lookups.
            self._lookups, self._others = Lines(self._client, timeout), Lines(self._client, timeout)
        self._meeting: asyncio.Task[object] | None = None

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys: one MGET, in a cluster one pipeline for each node.

        Raises:
            CacheUnavailable: no answer, or an error.
        """
        if self._lookups is None:
            # A key has its own slot, so that MGET by slots would be as many commands.
            return await self.run([("GET", key) for key in keys])
        with _translated:
            (values,) = await self._lookups.run([("MGET", *keys)], len(keys))
            found: list[bytes | None] = values
        return found

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands together and return their answers; in a cluster by node. Not a transaction.

        Raises:
            CacheUnavailable: no answer, or an error to any of them.
        """
        with _translated:
            if self._others is not None:
                return await self._others.run(commands)
            return await self._spread(commands)

    async def close(self) -> None:
        """Close the connections."""
        if self._meeting is not None:
            self._meeting.cancel()
        for lines in (self._lookups, self._others):
            if lines is not None:
                lines.close()
        await self._client.aclose()
        if self._sentinel is not None:
            await self._sentinel.aclose()

    async def _spread(self, commands: Sequence[Command]) -> list[Any]:
        assert isinstance(self._client, RedisCluster)  # noqa: S101, for mypy: who has no lines is a cluster
        await self._met(self._client)
        pipeline: Any = self._client.pipeline()
        async with pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = await pipeline.execute()
        return answers

    async def _met(self, cluster: RedisCluster) -> None:
        """Learn the cluster's nodes, which may take longer than a caller waits: it goes on when the caller has gone."""
        if self._meeting is None or (self._meeting.done() and _failed(self._meeting)):
            self._meeting = asyncio.ensure_future(cluster.initialize())
        await asyncio.shield(self._meeting)


class _Sentinels(Sentinel):
    """Asked one after the other: redis-py 8 reorders its list of them while others go through it, and misses some."""

    def __init__(self, nodes: Sequence[tuple[str, int]], arguments: Options) -> None:
        super().__init__(nodes, sentinel_kwargs=arguments)  # type: ignore[no-untyped-call]
        self._asking = asyncio.Lock()

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the master's address."""
        async with self._asking:
            found: tuple[str, int] = await super().discover_master(service_name)
        return found


def _opened(where: Place, timeout: float) -> tuple[Redis | RedisCluster, Sentinel | None]:
    # No retries: the caller's budget is one timeout, and a cache that fails is a cache that misses.
    common: Options = {"retry": Retry(NoBackoff(), 0), "client_name": _CLIENT}
    timeouts: Options = {"socket_connect_timeout": timeout, "socket_timeout": timeout}
    if where.kind == "single":
        return Redis.from_url(where.url, **common, **timeouts), None
    servers, sentinels = options(where)
    if where.kind == "sentinel":
        asked = _Sentinels(where.nodes, {**common, **timeouts, **sentinels})
        return asked.master_for(where.service, **servers, **common, **timeouts), asked
    # One retry: what follows "this node is not there any more" is to ask who is.
    common["retry"] = Retry(NoBackoff(), 1)
    timeouts = {"socket_connect_timeout": _CLUSTER_SECONDS, "socket_timeout": _CLUSTER_SECONDS}
    return RedisCluster(
        startup_nodes=[ClusterNode(*node) for node in where.nodes], **servers, **common, **timeouts
    ), None


def _failed(task: "asyncio.Task[object]") -> bool:
    return task.cancelled() or task.exception() is not None


class _Translated:
    """No generator, which costs more; one serves all, since it remembers nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        # Nearly any type: what logs in for us takes an answer for what it should be, whoever it is that answers.
        if isinstance(error, Exception) and not isinstance(error, CacheUnavailable):
            # With Sentinel redis-py's own words are a page.
            raise CacheUnavailable(f"{type(error).__name__}: {error}"[:_LONGEST_REASON]) from error


_translated = _Translated()
