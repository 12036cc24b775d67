"""`python -m service`: run the gateway, configured by environment variables (`settings.py`) and `--workers`."""

import argparse
import asyncio
import gc
import os
import signal
import socket
import sys
import warnings

import uvicorn

from microtome.parent import follow_parent
from service.application import build
from service.http.connection_limits import listener
from service.settings import PREFIX, REMOVED, Settings, SettingsError, read_settings
from service.telemetry import traces_wanted
from service.telemetry.logs import Logger, configure
from service.workers import supervise


async def serve(settings: Settings, log: Logger, opened: socket.socket) -> bool:
    """Serve until SIGTERM or SIGINT, drain, and return whether the start succeeded; if not, stderr has a line on why.

    Args:
        settings: of the gateway.
        log: logger.
        opened: the listening socket.
    """
    application = build(settings, log)
    config = uvicorn.Config(
        application.asgi,
        loop="uvloop",
        http=application.protocol,
        # Declined, whichever libraries are installed.
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        # Run here, where a start that fails is a line and no traceback.
        lifespan="off",
        # Nothing here depends on the caller's address or scheme.
        proxy_headers=False,
        timeout_graceful_shutdown=settings.drain,
        # Longer than the idle time of common clients' pools (Go: 90 s), so that the client closes first.
        timeout_keep_alive=95,
    )
    server = _Server(config, application.stopping)
    try:
        async with application.lifespan():
            log.info("listening", host=settings.host, port=settings.port, model_server=settings.model_server)
            # uvicorn handles these signals and, once drained, raises them again for the handlers before: a clean stop.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: None)
            await server.serve(sockets=[opened])
    except OSError as error:
        if server.started:
            raise
        sys.stderr.write(f"{error}\n")
    return server.started


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and exclude all objects of the start from garbage collection.

        A full collection would take 50 ms, in which nothing is answered; that is Redis' whole time budget.
        """
        await super().startup(sockets)
        gc.freeze()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, and let gRPC drain at the same time."""
        self._stopping.set()
        await super().shutdown(sockets)


def main() -> int:
    """Run the gateway and return the process's exit code: 0 after a clean stop, 1 or 2 when it could not start."""
    words = _parser().parse_args()
    if words.workers is not None:
        # As an environment variable, which the workers read, too.
        os.environ[f"{PREFIX}WORKERS"] = words.workers
    try:
        settings = read_settings()
    except SettingsError as error:
        sys.stderr.write(f"The gateway's settings are wrong:\n{error}\n")
        return 2
    log = _configured(settings)
    # Pillow warns of callers' files on the standard error, which has the log.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if words.listen_fd is None:
        # Once, not in each worker.
        for line in removed_settings() + risks(settings):
            log.warning(line)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    # Passed by the process that started this one as its worker, see `workers.py`.
    inherited = None if words.listen_fd is None else socket.socket(fileno=words.listen_fd)
    if inherited:
        follow_parent()
    try:
        opened = inherited or listener(settings.host, settings.port)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if settings.workers > 1 and not inherited:
        with opened:
            code = supervise(settings, log, opened)
        log.info("stopped")
        return code
    with asyncio.Runner(loop_factory=uvicorn.Config(app="", loop="uvloop").get_loop_factory()) as runner:
        started = runner.run(serve(settings, log, opened))
    log.info("stopped")
    return 0 if started else 1


def removed_settings() -> list[str]:
    """Return one line for each variable of the environment that has become a constant."""
    return [
        f"{name} is no longer a setting and is ignored; it is always {value}"
        for name, value in REMOVED.items()
        if name in os.environ
    ]


def risks(settings: Settings) -> list[str]:
    """Return one line for each choice that is allowed and that an operator should have made on purpose."""
    if settings.grpc_port and settings.key_records() and settings.grpc_certificate is None:
        keys = f"{PREFIX}GRPC_CERTIFICATE and {PREFIX}GRPC_KEY"
        return [f"API keys are sent in clear over gRPC: set {keys}, unless a proxy or a mesh encrypts this port"]
    return []


def _configured(settings: Settings) -> Logger:
    if not traces_wanted():
        return configure(settings.log_format, settings.log_level)
    # Imported here since it needs an extra, and memory that gateways without traces need not spend.
    from service.telemetry.tracing import with_trace_ids  # noqa: PLC0415

    return configure(settings.log_format, settings.log_level, with_trace_ids)


def _parser() -> argparse.ArgumentParser:
    """Describe the command line, so that an unknown option is an error."""
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description=f"Run the gateway. All else is set by {PREFIX}* variables: docs/reference/settings.md.",
    )
    parser.add_argument("--workers", metavar="N", help=f"processes that share the port (or {PREFIX}WORKERS)")
    parser.add_argument("--listen-fd", type=int, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
