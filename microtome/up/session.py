"""One `microtome up` from beginning to end: check, export, serve, stop."""

import asyncio
import sys

from microtome.up import plan, ports
from microtome.up.addresses import Endpoint, check_model_server, check_redis, private_socket
from microtome.up.arguments import Options
from microtome.up.errors import UpError
from microtome.up.models import export_missing, model_names
from microtome.up.stopping import listening
from microtome.up.supervisor import supervise
from microtome.up.terminal import Terminal


def run(options: Options) -> int:
    """Serve until told to stop; return the exit code, 0 after a clean stop."""
    terminal = Terminal(sys.stdout, sys.stderr)
    try:
        asyncio.run(_session(options, terminal))
    except UpError as failure:
        terminal.note(str(failure))
        return failure.exit_code
    except KeyboardInterrupt:
        # Only before the signals are listened to, when nothing has been started yet.
        return 130
    return 0


async def _session(options: Options, terminal: Terminal) -> None:
    if options.model_server is not None:
        check_model_server(options.model_server)
    if options.redis is not None:
        check_redis(options.redis)
    plan.admission(options.host)
    models = model_names(options.recipe)
    endpoint = _endpoint(options)
    with private_socket() as socket, listening() as stop:
        if options.model_server is None:
            await export_missing(options.recipe, options.models_dir, terminal, stop)
        if not stop.asked.is_set():
            await supervise(plan.make(options, models, endpoint, socket), terminal, stop)


def _endpoint(options: Options) -> Endpoint:
    port = ports.claim(options.host, options.port)
    if options.grpc_port is None:
        return Endpoint(options.host, port, ports.next_free(options.host, port))
    return Endpoint(options.host, port, ports.claim(options.host, options.grpc_port, "--grpc-port"))
