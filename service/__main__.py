"""`python -m service`: run the gateway. Configured by the environment alone, see `settings.py`."""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Sequence

import uvicorn

from microtome.parent import follow_parent
from service.application import build
from service.settings import Settings, SettingsError, read_settings
from service.telemetry.logs import Logger, configure
from service.workers import supervise

_LISTEN_FD = "--listen-fd="


async def serve(settings: Settings, log: Logger, listener: socket.socket | None = None) -> bool:
    """Serve until SIGTERM or SIGINT, drain, and return whether the start had succeeded.

    Args:
        settings: how.
        log: where to.
        listener: the socket to serve, when another process has opened it; None opens one.
    """
    application = build(settings, log)
    config = uvicorn.Config(
        application.asgi,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=application.connections,
        # Offers to speak it are declined, whatever libraries are installed.
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain,
        # Longer than the idle time of common clients' pools (Go: 90 s), so that the client closes first.
        timeout_keep_alive=95,
    )
    server = _Server(config, application.stopping)
    log.info("listening", host=settings.host, port=settings.port, model_server=settings.model_server)
    # uvicorn takes these signals and, having drained, gives them on to whoever had them: a clean stop is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    await server.serve(sockets=[listener] if listener else None)
    return server.started


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and keep the collector from looking through what lives as long as the process.

        That takes 50 ms, in which nobody is answered, and as long as Redis may take for an answer.
        """
        await super().startup(sockets)
        gc.freeze()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, and let what is served beside HTTP do so at the same time."""
        self._stopping.set()
        await super().shutdown(sockets)


def main() -> int:
    """Run the gateway and return the process's exit code: 0 after a clean stop, 1 or 2 when it could not start."""
    try:
        settings = read_settings()
    except SettingsError as error:
        sys.stderr.write(f"The gateway's settings are wrong:\n{error}\n")
        return 2
    log = configure(settings.log_format, settings.log_level)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    inherited = _inherited_listener(sys.argv[1:])
    if settings.exit_with_parent or inherited:
        follow_parent()
    if settings.workers > 1 and not inherited:
        code = supervise(settings, log)
        log.info("stopped")
        return code
    with asyncio.Runner(loop_factory=uvicorn.Config(app="", loop="uvloop").get_loop_factory()) as runner:
        started = runner.run(serve(settings, log, inherited))
    log.info("stopped")
    return 0 if started else 1


def _inherited_listener(words: Sequence[str]) -> socket.socket | None:
    """Take the socket over that the process which started us as its worker has opened, see `workers.py`."""
    for word in words:
        if word.startswith(_LISTEN_FD):
            return socket.socket(fileno=int(word.removeprefix(_LISTEN_FD)))
    return None


if __name__ == "__main__":
    sys.exit(main())
