"""A TCP proxy: `HOST PORT TO_HOST TO_PORT`. At SIGUSR1 all connections that are open fall silent; new ones work."""

import asyncio
import signal
import sys

_FOR_EVER = 1e9


class _BlackHole:
    def __init__(self, host: str, port: str) -> None:
        self._to = (host, int(port))
        self._silenced = 0

    def silence(self) -> None:
        self._silenced += 1

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        born = self._silenced
        try:
            there, back = await asyncio.open_connection(*self._to)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pump(reader, back, born), self._pump(there, writer, born))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, born: int) -> None:
        try:
            while data := await reader.read(65536):
                if born < self._silenced:
                    await asyncio.sleep(_FOR_EVER)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        if born < self._silenced:
            await asyncio.sleep(_FOR_EVER)
        writer.close()


async def _main(host: str, port: str, to_host: str, to_port: str) -> None:
    proxy = _BlackHole(to_host, to_port)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, proxy.silence)
    server = await asyncio.start_server(proxy.connected, host, int(port))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
