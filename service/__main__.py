"""`python -m service`: run the gateway. Configured by the environment alone, see `settings.py`."""

import asyncio
import signal
import sys

import uvicorn

from microtome.parent import follow_parent
from service.application import build
from service.settings import Settings, SettingsError, read_settings
from service.telemetry.logs import Logger, configure


async def serve(settings: Settings, log: Logger) -> bool:
    """Serve until SIGTERM or SIGINT, drain, and return whether the start had succeeded."""
    config = uvicorn.Config(
        build(settings, log),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain,
        # Longer than the idle time of common clients' pools (Go: 90 s), so that the client closes first.
        timeout_keep_alive=95,
    )
    server = uvicorn.Server(config)
    log.info("listening", host=settings.host, port=settings.port, model_server=settings.model_server)
    # uvicorn takes these signals and, having drained, gives them on to whoever had them: a clean stop is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    await server.serve()
    return server.started


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
    if settings.exit_with_parent:
        follow_parent()
    with asyncio.Runner(loop_factory=uvicorn.Config(app="", loop="uvloop").get_loop_factory()) as runner:
        started = runner.run(serve(settings, log))
    log.info("stopped")
    return 0 if started else 1


if __name__ == "__main__":
    sys.exit(main())
