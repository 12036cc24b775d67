"""Connect to Redis or Valkey: one server, the master that Sentinel names, or a cluster.

`RedisServers` is the gateway's, `connect` that of commands, which do one thing after the other. Whatever goes wrong in
`RedisServers` is `CacheUnavailable`; nothing above knows redis-py.
"""

import asyncio
from collections.abc import Sequence
from math import inf
from typing import Any

import hiredis
import redis
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.connection import SSLConnection, parse_url

from service.cache.redis.url import Place, place
from service.core.timeouts import SharedTimeout
from service.errors import CacheUnavailable

_CLIENT = "microtome"
_LONGEST_REASON = 200
_MOST_CONNECTIONS = 8
_CLUSTER_SECONDS = 5.0
"""For discovering a cluster, which goes on in the background when the caller has given up."""

Command = tuple[str | bytes | int, ...]
Options = dict[str, Any]


class RedisServers:
    """One or many servers. Connects when first used; needs a running event loop then."""

    def __init__(self, url: str, *, timeout: float) -> None:
        """Take the address; see `url.py`.

        Args:
            url: where, with password and database if any.
            timeout: seconds for each step of connecting and for each call.

        Raises:
            ValueError: the address has another form.
        """
        self._timeout = timeout
        self._patience = SharedTimeout(timeout)
        self._client, self._sentinel = _opened(place(url), timeout)
        self._connections = _Connections(self._client) if isinstance(self._client, Redis) else None
        self._discovery: asyncio.Task[object] | None = None

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys: one MGET, in a cluster one pipeline for each node.

        Raises:
            CacheUnavailable: no answer, or an error.
        """
        if self._connections is None:
            # Each key has its own slot: MGET by slots would be as many commands.
            return await self.run([("GET", key) for key in keys])
        (values,) = await self.run([("MGET", *keys)], len(keys))
        found: list[bytes | None] = values
        return found

    async def run(self, commands: Sequence[Command], values: int | None = None) -> list[Any]:
        """Send commands together and return their answers; in a cluster by node. Not a transaction.

        Args:
            commands: at least one.
            values: numbers of values in each answer, where it is known; an answer of another form is an error.

        Raises:
            CacheUnavailable: no answer, or an error to any of them.
        """
        try:
            if self._connections is None:
                return await self._spread(commands)
            async with self._patience.bounded():
                return await self._connections.run(commands, values)
        except TimeoutError:
            raise CacheUnavailable(f"no answer within {self._timeout} s") from None
        except CacheUnavailable:
            raise
        except Exception as error:
            # Any type: redis-py takes an answer during login for what it should be, whatever answers there. Shortened,
            # since with Sentinel its message is a page.
            raise CacheUnavailable(f"{type(error).__name__}: {error}"[:_LONGEST_REASON]) from error

    async def close(self) -> None:
        """Close the connections."""
        if self._discovery is not None:
            self._discovery.cancel()
        if self._connections is not None:
            await self._connections.close()
        await self._client.aclose()
        if self._sentinel is not None:
            await self._sentinel.aclose()

    async def _spread(self, commands: Sequence[Command]) -> list[Any]:
        assert isinstance(self._client, RedisCluster)  # noqa: S101, for mypy
        if self._discovery is None or (self._discovery.done() and _failed(self._discovery)):
            self._discovery = asyncio.ensure_future(self._client.initialize())
        # It may take longer than a caller waits, and goes on when the caller has given up.
        await asyncio.shield(self._discovery)
        pipeline: Any = self._client.pipeline()
        async with pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = await pipeline.execute()
        return answers


class _Connections:
    """A few of redis-py's connections to one server, each lent to one caller at a time.

    redis-py's own pool costs more than the rest of a lookup, and opens a connection within its caller's time: one that
    takes longer to open than a caller waits would never be there.
    """

    def __init__(self, client: Redis) -> None:
        self._pool = client.connection_pool
        self._places = asyncio.Semaphore(_MOST_CONNECTIONS)
        self._open: set[AbstractConnection] = set()
        self._idle: list[AbstractConnection] = []
        self._opening: asyncio.Task[None] | None = None

    async def run(self, commands: Sequence[Command], values: int | None) -> list[Any]:
        """Return the answers in the order of the commands; see `RedisServers.run`.

        Raises:
            CacheUnavailable: an answer of another form.
            RedisError, OSError: no connection, or an error as an answer.
        """
        # Its stubs know tuples of one.
        packed = b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]
        async with self._places:
            connection = await self._take()
            try:
                await connection.send_packed_command(packed, check_health=False)
                answers = [await connection.read_response(timeout=inf) for _ in commands]
                for answer in answers if values is not None else ():
                    if not (isinstance(answer, list) and len(answer) == values):
                        raise CacheUnavailable(f"Expected {values} values, received {str(answer)[:100]}")  # noqa: TRY301
            except BaseException:
                # Cancelled: its answer would be read as the next caller's. An error: of a master that became a replica,
                # of a password that changed. The idle ones are as old: the next call connects again, maybe elsewhere.
                await self._drop(connection)
                while self._idle:
                    await self._drop(self._idle.pop())
                raise
            self._idle.append(connection)
            return answers

    async def close(self) -> None:
        """Close all connections."""
        if self._opening is not None:
            self._opening.cancel()
        for connection in list(self._open):
            await self._drop(connection)

    async def _take(self) -> AbstractConnection:
        while True:
            while self._idle:
                connection = self._idle.pop()
                # Closed by the server, or something to read that answers nothing.
                if connection.is_connected and not await connection.can_read():
                    return connection
                await self._drop(connection)
            if self._opening is None:
                self._opening = asyncio.create_task(self._connect(), name="redis connection")
                self._opening.add_done_callback(self._connected)
            # It goes on when the caller has given up, for those who come later.
            await asyncio.shield(self._opening)

    async def _connect(self) -> None:
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        self._open.add(connection)
        try:
            await connection.connect()
            if await connection.can_read():
                raise CacheUnavailable("The server sent something that was not asked for.")  # noqa: TRY301
        except BaseException:
            # redis-py leaves the socket open when it is cancelled while it logs in.
            await self._drop(connection)
            raise
        # From here the time of the whole call is bounded: redis-py's timers for each answer cost more.
        connection.socket_timeout = None
        self._idle.append(connection)

    def _connected(self, opening: asyncio.Task[None]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # marked as seen: every caller may have given up

    async def _drop(self, connection: AbstractConnection) -> None:
        self._open.discard(connection)
        await connection.disconnect(nowait=True)


class _Sentinels(Sentinel):
    """Queries the Sentinels for one caller at a time: redis-py 8 reorders its list of them while others iterate it."""

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
    # One retry: after "this node is gone" the nodes are discovered again.
    common["retry"] = Retry(NoBackoff(), 1)
    timeouts = {"socket_connect_timeout": _CLUSTER_SECONDS, "socket_timeout": _CLUSTER_SECONDS}
    return RedisCluster(
        startup_nodes=[ClusterNode(*node) for node in where.nodes], **servers, **common, **timeouts
    ), None


def options(where: Place) -> tuple[Options, Options]:
    """Return redis-py's keyword arguments for the servers, and those for the Sentinels.

    `?sentinel_username=` and `?sentinel_password=` are the Sentinels' own; the options of TLS hold for both.
    """
    servers: Options = dict(parse_url(where.url))  # type: ignore[no-untyped-call]
    servers["ssl"] = servers.pop("connection_class", None) is SSLConnection
    for name in ("host", "port"):
        servers.pop(name, None)
    if where.kind == "cluster":
        servers.pop("db", None)
    sentinels = {name: servers.pop(name) for name in list(servers) if name.startswith("sentinel_")}
    sentinels = {name.removeprefix("sentinel_"): value for name, value in sentinels.items()}
    return servers, sentinels | {name: value for name, value in servers.items() if name.startswith("ssl")}


def connect(url: str, *, seconds: float) -> redis.Redis | redis.RedisCluster:
    """Connect without an event loop, for a command.

    Args:
        url: where, see `url.py`.
        seconds: for connecting and for each answer.

    Raises:
        ValueError: the address has another form.
        redis.RedisError: no server answers there.
    """
    where = place(url)
    timeouts: Options = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    if where.kind == "single":
        client: redis.Redis | redis.RedisCluster = redis.Redis.from_url(where.url, **timeouts)
    else:
        servers, sentinels = options(where)
        if where.kind == "cluster":
            nodes = [redis.cluster.ClusterNode(*node) for node in where.nodes]  # type: ignore[no-untyped-call]
            client = redis.RedisCluster(startup_nodes=nodes, **servers, **timeouts)
        else:
            asked = redis.Sentinel(where.nodes, sentinel_kwargs={**timeouts, **sentinels})  # type: ignore[no-untyped-call]
            client = asked.master_for(where.service, **servers, **timeouts)  # type: ignore[no-untyped-call]
    client.ping()
    return client


def _failed(task: "asyncio.Task[object]") -> bool:
    return task.cancelled() or task.exception() is not None
