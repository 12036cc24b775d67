"""Connect to Redis or Valkey: one server, the master that Sentinel names, or a cluster.

`RedisServers` is the gateway's, `connect` that of commands, which do one thing after the other. Whatever goes wrong in
`RedisServers` is `CacheUnavailable`; nothing above knows redis-py.

The cache needs GET, MGET and SET, since an ACL or a proxy may allow no more. Beside them only a password (AUTH), a
database other than 0 (SELECT), Sentinel (SENTINEL MASTERS) and a cluster (CLUSTER SLOTS) take a command; a SELECT that
is refused is done without. Connections speak RESP2 and have no name, so no HELLO and no CLIENT is sent.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Any

import hiredis
import redis
from redis._parsers.commands import AsyncCommandsParser
from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterCrossSlotError,
    MovedError,
    NoPermissionError,
    ResponseError,
)

from service.cache.redis.replies import BoundedParser
from service.cache.redis.url import Options, Place, place
from service.errors import CacheUnavailable

_LONGEST_REASON = 200
_MOST_CONNECTIONS = 8
_CONNECT_SECONDS = 5.0
"""For connecting and logging in, and for discovering a cluster: both go on when the caller has given up."""

_MOST_KEYS = 64
"""Keys of one MGET: what one reply may hold is bounded."""

_OF_A_CLUSTER = (MovedError, AskError, ClusterCrossSlotError)
_NO_PASSWORD_THERE = ("without any password configured", "no password is set")

Command = tuple[str | bytes | int, ...]
Notice = Callable[[str, str], object]
"""Is told, once each, what is done without: a word for it, and a sentence."""


class CommandRefused(CacheUnavailable):
    """Redis works, and does not allow a command."""


class RedisServers:
    """One or many servers. Connects when first used; needs a running event loop then. Callers bound its time."""

    def __init__(self, url: str, notice: Notice = lambda _name, _text: None) -> None:
        """Take the address; see `url.py`.

        Args:
            url: where, with password and database if any.
            notice: is told what is done without.

        Raises:
            ValueError: the address has another form.
        """
        self._place = place(url)
        self._notice = notice
        self._noticed: set[str] = set()
        self._client, self._sentinel = _opened(self._place, self._log_in)
        self._connections = _Connections(self._client, self._notice_once) if isinstance(self._client, Redis) else None
        self._discovery: asyncio.Task[object] | None = None

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys; see `run_and_read`."""
        if self._connections is None or len(keys) > _MOST_KEYS:
            return (await self.run_and_read((), keys))[1]
        (values,) = await self.run((("MGET", *keys),), (len(keys),))
        found: list[bytes | None] = values
        return found

    async def run_and_read(
        self, before: Sequence[Command], keys: Sequence[str]
    ) -> tuple[list[Any], list[bytes | None]]:
        """Send commands and then read keys, in one round trip; in a cluster GETs, in one pipeline for each node.

        Returns:
            The answers to the commands, and the values in the order of the keys; None where there is none, or one of
            another type than a string.

        Raises:
            CommandRefused: a command is not allowed.
            CacheUnavailable: no answer, or another error.
        """
        if self._connections is None:
            # Each key has its own slot: MGET by slots would be as many commands.
            answers = await self.run([*before, *(("GET", key) for key in keys)])
            return answers[: len(before)], answers[len(before) :]
        parts = [keys[start : start + _MOST_KEYS] for start in range(0, len(keys), _MOST_KEYS)]
        answers = await self.run(
            [*before, *(("MGET", *part) for part in parts)], [None] * len(before) + [len(part) for part in parts]
        )
        return answers[: len(before)], [value for values in answers[len(before) :] for value in values]

    async def run(self, commands: Sequence[Command], values: Sequence[int | None] = ()) -> list[Any]:
        """Send commands together and return their answers; in a cluster by node. Not a transaction.

        Args:
            commands: at least one.
            values: numbers of values in the answers, None where it is not known; one of another form is an error.

        Raises:
            CommandRefused: a command is not allowed.
            CacheUnavailable: no answer, or an error to any of them.
        """
        try:
            if self._connections is None:
                return await self._spread(commands)
            return await self._connections.run(commands, values)
        except CacheUnavailable:
            raise
        except _OF_A_CLUSTER as error:
            raise CacheUnavailable(await self._follow_cluster(error)) from error
        except Exception as error:
            # Any type: redis-py takes an answer during login for what it should be, whatever answers there. Shortened,
            # since with Sentinel its message is a page.
            kind = CommandRefused if _refuses(error) else CacheUnavailable
            raise kind(f"{type(error).__name__}: {error}"[:_LONGEST_REASON]) from error

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

    async def _follow_cluster(self, error: Exception) -> str:
        """Speak to a server as to a cluster from now on, which it has turned out to be; return what to say of it."""
        reason = f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
        if self._place.kind != "single" or not self._place.nodes or self._connections is None:
            return reason
        connections, client, self._connections = self._connections, self._client, None
        self._client = _opened_cluster(self._place)
        self._notice_once(
            "cluster",
            f"This server is part of a cluster ({reason}). It is used as one; let MICROTOME_REDIS_URL begin with "
            "redis+cluster:// or rediss+cluster://.",
        )
        await connections.close()
        await client.aclose()
        return f"part of a cluster, expected redis+cluster:// in MICROTOME_REDIS_URL: {reason}"

    async def _log_in(self, connection: AbstractConnection) -> None:
        """Send AUTH and SELECT where they are needed; redis-py would give up where SELECT is refused."""
        database, connection.db = connection.db, 0
        try:
            await connection.on_connect_check_health(check_health=False)
        finally:
            connection.db = database
        if not int(database):
            return
        await connection.send_command("SELECT", database, check_health=False)
        try:
            await connection.read_response()
        except ResponseError as error:
            self._notice_once("SELECT", f"Vectors are kept in database 0, since {database} was refused: {error}")

    def _notice_once(self, name: str, text: str) -> None:
        if name not in self._noticed:
            self._noticed.add(name)
            self._notice(name, text)


class _Connections:
    """A few of redis-py's connections to one server, each lent to one caller at a time.

    redis-py's own pool costs more than the rest of a lookup, and opens a connection within its caller's time: one that
    takes longer to open than a caller waits would never be there.
    """

    def __init__(self, client: Redis, notice: Notice) -> None:
        self._pool = client.connection_pool
        self._notice = notice
        self._places = asyncio.Semaphore(_MOST_CONNECTIONS)
        self._open: set[AbstractConnection] = set()
        self._idle: list[AbstractConnection] = []
        self._opening: asyncio.Task[None] | None = None

    async def run(self, commands: Sequence[Command], values: Sequence[int | None]) -> list[Any]:
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
                answers, refusal = [], None
                for _ in commands:
                    try:
                        answers.append(await connection.read_response(timeout=inf))
                    except ResponseError as error:
                        # It ends no connection: the answers after it are read too.
                        refusal = error if refusal is None or _refuses(refusal) else refusal
                if refusal is None:
                    _check(answers, values)
                elif not _refuses(refusal):
                    raise refusal  # noqa: TRY301
            except BaseException:
                # Cancelled: its answer would be read as the next caller's. An error: of a master that became a replica,
                # of a password that changed. The idle ones are as old: the next call connects again, maybe elsewhere.
                await self._drop(connection)
                while self._idle:
                    await self._drop(self._idle.pop())
                raise
            self._idle.append(connection)
            if refusal is not None:
                raise refusal
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
        try:
            connection = await self._connection()
        except AuthenticationError as error:
            if not any(words in str(error) for words in _NO_PASSWORD_THERE):
                raise
            self._notice("AUTH", f"No password is used, since the server has none: {error}")
            connection = await self._connection(login=False)
        # From here the time of the whole call is bounded: redis-py's timers for each answer cost more.
        connection.socket_timeout = None
        self._idle.append(connection)

    async def _connection(self, *, login: bool = True) -> AbstractConnection:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        if not login:
            connection.username = connection.password = None
        self._open.add(connection)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            if await connection.can_read():
                raise CacheUnavailable("The server sent something that was not asked for.")  # noqa: TRY301
        except BaseException:
            # redis-py leaves the socket open when it is cancelled while it logs in.
            await self._drop(connection)
            raise
        return connection

    def _connected(self, opening: asyncio.Task[None]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # marked as seen: every caller may have given up

    async def _drop(self, connection: AbstractConnection) -> None:
        self._open.discard(connection)
        await connection.disconnect(nowait=True)


class _KnownCommands(AsyncCommandsParser):
    """Where the keys of our commands are, which redis-py would ask a cluster with COMMAND."""

    async def initialize(self, node: ClusterNode | None = None) -> None:
        """Ask nothing."""

    async def get_keys(self, *args: Any) -> tuple[Any, ...]:  # noqa: ANN401, redis-py's own
        """Return the key of a GET or SET."""
        return args[1:2]


class _Sentinels(Sentinel):
    """Queries the Sentinels for one caller at a time: redis-py 8 reorders its list of them while others iterate it."""

    def __init__(self, nodes: Sequence[tuple[str, int]], arguments: Options) -> None:
        super().__init__(nodes, sentinel_kwargs=arguments)  # type: ignore[no-untyped-call]
        for each in self.sentinels:
            each.connection_pool.connection_kwargs["parser_class"] = BoundedParser
        self._asking = asyncio.Lock()

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the master's address."""
        async with self._asking:
            found: tuple[str, int] = await super().discover_master(service_name)
        return found


def _check(answers: Sequence[Any], values: Sequence[int | None]) -> None:
    for expected, answer in zip(values, answers, strict=False):
        if expected is not None and not (isinstance(answer, list) and len(answer) == expected):
            raise CacheUnavailable(f"Expected {expected} values, received {str(answer)[:100]}")


def _refuses(error: Exception) -> bool:
    """Whether an ACL or a proxy does not allow a command, and all else works."""
    words = ("unknown command", "unsupported command", "not supported")
    return isinstance(error, NoPermissionError) or (
        isinstance(error, ResponseError) and any(each in str(error) for each in words)
    )


_COMMON: Options = {"protocol": 2, "driver_info": None}
"""RESP2, and no CLIENT SETINFO: a proxy or an ACL may refuse both, and nothing here needs them."""


def _opened(
    where: Place, log_in: Callable[[AbstractConnection], Awaitable[None]]
) -> tuple[Redis | RedisCluster, Sentinel | None]:
    if where.kind == "cluster":
        return _opened_cluster(where), None
    common: dict[str, Any] = {
        **_COMMON,
        # No retries: the caller's budget is one timeout, and a cache that fails is a cache that misses.
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": _CONNECT_SECONDS,
        "socket_timeout": _CONNECT_SECONDS,
    }
    ours = {**common, "parser_class": BoundedParser, "redis_connect_func": log_in, "db": where.database}
    if where.kind == "sentinel":
        asked = _Sentinels(where.nodes, {**common, **where.sentinel_options, "ssl": where.tls})
        return asked.master_for(where.service, **where.options, **ours, ssl=where.tls), asked
    kinds = {True: SSLConnection, False: Connection} if where.nodes else {False: UnixDomainSocketConnection}
    address = {"host": where.nodes[0][0], "port": where.nodes[0][1]} if where.nodes else {"path": where.path}
    options = {name: value for name, value in where.options.items() if where.nodes or not name.startswith("socket_")}
    pool = ConnectionPool(connection_class=kinds[where.tls], **address, **options, **ours)
    return Redis(connection_pool=pool), None


def _opened_cluster(where: Place) -> RedisCluster:
    client = RedisCluster(
        startup_nodes=[ClusterNode(*node) for node in where.nodes],
        ssl=where.tls,
        **where.options,
        **_COMMON,
        # One retry: after "this node is gone" the nodes are discovered again.
        retry=Retry(NoBackoff(), 1),
        socket_connect_timeout=_CONNECT_SECONDS,
        socket_timeout=_CONNECT_SECONDS,
    )
    client.commands_parser = _KnownCommands()
    # Its constructor knows no parser; nodes that are discovered get the manager's arguments.
    nodes = (node.connection_kwargs for node in client.startup_nodes)
    for arguments in (client.nodes_manager.connection_kwargs, *nodes):
        arguments["parser_class"] = BoundedParser
    return client


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
    common: dict[str, Any] = {**_COMMON, "socket_timeout": seconds, "socket_connect_timeout": seconds}
    servers = {**where.options, **common, "ssl": where.tls}
    if where.kind == "cluster":
        nodes = [redis.cluster.ClusterNode(*node) for node in where.nodes]  # type: ignore[no-untyped-call]
        return redis.RedisCluster(startup_nodes=nodes, **servers)
    if where.kind == "sentinel":
        sentinels = {**where.sentinel_options, **common, "ssl": where.tls}
        asked = redis.Sentinel(where.nodes, sentinel_kwargs=sentinels)  # type: ignore[no-untyped-call]
        client: redis.Redis = asked.master_for(where.service, db=where.database, **servers)  # type: ignore[no-untyped-call]
        return client
    if where.nodes:
        return redis.Redis(where.nodes[0][0], where.nodes[0][1], where.database, **servers)
    return redis.Redis(unix_socket_path=where.path, db=where.database, **servers)


def _failed(task: "asyncio.Task[object]") -> bool:
    return task.cancelled() or task.exception() is not None
