"""Redis behind TLS and a password. The wheel's Valkey speaks no TLS: what ends it stands before it, as stunnel does."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import uvloop

from service.cache.redis.client import RedisServers
from service.errors import CacheUnavailable
from tests.certificates import make_certificates
from tests.e2e.processes import Valkey

PASSWORD = "s3cret"
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Locked(Valkey):
    """A Valkey server that answers only with the password."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def words(self) -> list[str]:
        """The server with its password."""
        return [*super().words(), "--requirepass", PASSWORD]


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    """One server for the module, with certificates beside its log."""
    directory = tmp_path_factory.mktemp("locked")
    make_certificates(directory)
    server = Locked(directory)
    server.start()
    yield server
    server.destroy()


@asynccontextmanager
async def encrypted(valkey: Locked) -> AsyncIterator[int]:
    """Take TLS off what comes to the port that is yielded, and hand it to the server."""
    directory, relays = valkey.log.parent, set[asyncio.Task[None]]()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(1 << 16):
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass  # one of the two is gone, and the other is told so
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", valkey.port)
        for task in (asyncio.create_task(relay(reader, back)), asyncio.create_task(relay(there, writer))):
            relays.add(task)
            task.add_done_callback(relays.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for task in relays:
        task.cancel()


def at(valkey: Locked, port: int, *, password: str = PASSWORD, authority: bool = True) -> RedisServers:
    """The server behind the port, as a gateway would be told of it."""
    trusted = f"?ssl_ca_certs={valkey.log.parent / 'ca.pem'}" if authority else ""
    return RedisServers(f"rediss://:{password}@localhost:{port}/0{trusted}")


def run(loop: str, test: Callable[[], Awaitable[None]]) -> None:
    """Run a test on one kind of event loop; the gateway's is uvloop."""

    async def tested() -> None:
        await test()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(tested())


async def _everything(valkey: Locked) -> None:
    async with encrypted(valkey) as port:
        servers = at(valkey, port)
        values = {f"k{number}": bytes([number]) * 100_000 for number in range(40)}
        await servers.run([("SET", key, value) for key, value in values.items()])
        keys = [["absent", f"k{number}", f"k{39 - number}"] for number in range(40)]
        expected = [[values.get(key) for key in each] for each in keys]
        assert expected == await asyncio.gather(*(servers.read(each) for each in keys))
        # One that is closed by the other side, as a proxy that is restarted does, is opened again.
        with valkey.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with suppress(CacheUnavailable):
            await servers.read(["k1"])
        assert [values["k1"]] == await servers.read(["k1"])
        await servers.close()


async def _strangers(valkey: Locked) -> None:
    async with encrypted(valkey) as port:
        for servers in (at(valkey, port, authority=False), at(valkey, port, password="s3cret-of-others")):
            with pytest.raises(CacheUnavailable):
                await servers.read(["k"])
            with pytest.raises(CacheUnavailable) as told:
                await servers.run([("SET", "k", "v")])
            # It goes into the log as it stands.
            assert "s3cret" not in str(told.value)
            await servers.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_lookups_and_writes_are_the_same_over_tls(valkey: Locked, loop: str) -> None:
    """Large values, many lookups at once over one connection, and another connection when that one has ended."""
    run(loop, partial(_everything, valkey))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_certificate_nobody_trusts_and_a_wrong_password_are_a_cache_that_is_down(valkey: Locked, loop: str) -> None:
    """Neither is answered, and neither is another kind of error."""
    run(loop, partial(_strangers, valkey))
