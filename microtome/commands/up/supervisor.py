"""Run the gateway and the model server until one of them ends for good or the user stops them.

The model server is restarted when it dies; when the gateway is ready, the user gets lines to copy into a shell.
"""

import asyncio
import http.client
import json
import os
import re
import shlex
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from microtome.commands.up.addresses import Endpoint, claim
from microtome.commands.up.errors import GatewayEnded, ModelServerFailed
from microtome.commands.up.plan import Plan
from microtome.commands.up.processes import Child, Command
from microtome.commands.up.signals import StopRequests
from microtome.commands.up.terminal import Terminal

# Longer than the grace period of either process (MICROTOME_DRAIN, --shutdown_grace_seconds).
GRACE_SECONDS = 60.0
GIVE_UP_AFTER = 3
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 15.0
STEADY_SECONDS = 60.0
SOCKET_INTERVAL = 0.05
TAIL_LINES = 12
# Lines that TensorFlow writes before it reads its log level, so that no setting suppresses them.
TENSORFLOW_NOISE = re.compile(r"WARNING: All log messages before absl::InitializeLog\(\)|[IW]0000 00:00:")
READY_INTERVAL = 0.1
READY_TIMEOUT = 2.0
# The gateway needs a moment to find a model server that has just started; until then reasons are not shown.
PATIENCE = 3.0
EXAMPLE = Path("examples/cat.jpg")
KEYS = ("MICROTOME_API_KEYS", "MICROTOME_API_KEYS_FILE")
REPOSITORY = Path(__file__).parents[3]


async def supervise(plan: Plan, terminal: Terminal, stop: StopRequests) -> None:
    """Run the plan's processes; return after a clean stop.

    Raises:
        CannotStart: Another process has taken the port.
        GatewayEnded: The gateway ended by itself.
        ModelServerFailed: The embedded model server cannot be kept alive.
    """
    keeper = ModelServerKeeper(plan.model_server, plan.socket, terminal) if plan.model_server else None
    gateway = Child(plan.gateway, terminal.relay)
    kept = [keeper.run()] if keeper else []
    try:
        await _until_stopped(
            stop, _fail_with(gateway, plan.endpoint), stop.requested.wait(), _greet(plan, terminal), *kept
        )
    finally:
        terminal.waiting(None)
        if stop.requested.is_set():
            terminal.note("stopping; Ctrl-C again does not wait")
        # In this order: the gateway needs the model server to finish requests in flight.
        await gateway.stop(GRACE_SECONDS, stop.forced)
        if keeper:
            await keeper.stop(GRACE_SECONDS, stop.forced)


async def _until_stopped(stop: StopRequests, *coroutines: Coroutine[object, object, object]) -> None:
    """Run all until a stop is requested or one of them raises."""
    pending = {asyncio.ensure_future(task) for task in coroutines}
    try:
        while not stop.requested.is_set():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in pending:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*pending, return_exceptions=True)


async def _fail_with(gateway: Child, endpoint: Endpoint) -> None:
    code = await gateway.wait()
    # Another process may have taken the port since it was checked, which has a way out of its own.
    await asyncio.to_thread(claim, endpoint.host, endpoint.port)
    raise GatewayEnded(f"The gateway ended by itself (exit code {code}); what it said is above.", exit_code=code)


async def _greet(plan: Plan, terminal: Terminal) -> None:
    """Poll until the gateway is ready, showing what it waits for, then say what to try."""
    begin = changed = time.monotonic()
    stage = ""
    while obstacle := await asyncio.to_thread(_obstacle, plan.endpoint):
        now = time.monotonic()
        what, reasons = obstacle if plan.models_loaded() else ("loading the models", "")
        stage, changed = (stage, changed) if what == stage else (what, now)
        terminal.waiting(what + (reasons if now - changed >= PATIENCE else ""), now - begin)
        await asyncio.sleep(READY_INTERVAL)
    terminal.waiting(None)
    settings = {**os.environ, **plan.gateway.environment}
    terminal.say(welcome(plan.endpoint, plan.models, time.monotonic() - begin, settings))


def _obstacle(gateway: Endpoint) -> tuple[str, str] | None:
    """Return why the gateway is not ready, and its own reasons; None when it is ready."""
    # Not urllib, which would send requests to this machine through a configured proxy.
    connection = http.client.HTTPConnection(gateway.local_host, gateway.port, timeout=READY_TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return "starting the gateway", ""
    finally:
        connection.close()
    # The gateway is ready when it can answer for one model; the command waits for all of them.
    reasons = _reasons(body)
    return (
        None if response.status == http.client.OK and not reasons else ("waiting for the gateway to be ready", reasons)
    )


def _reasons(body: bytes) -> str:
    """Return the gateway's reasons for each model."""
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        reasons = [f"{model}: {reason}" for model, reason in json.loads(body)["models"].items() if reason]
        return f" ({'; '.join(reasons)})" if reasons else ""
    return ""


class ModelServerKeeper:
    """Runs the model server, and restarts it when it ends.

    A run has served once its socket exists, which happens when the models are loaded. A server that is killed after
    that is always restarted; three runs in a row that never served end the session.
    """

    def __init__(self, command: Command, socket: Path, terminal: Terminal) -> None:
        self._command = command
        self._socket = socket
        self._terminal = terminal
        self._child: Child | None = None

    async def run(self) -> NoReturn:
        """Start it, and restart it when it ends, until cancelled.

        Raises:
            ModelServerFailed: Several runs in a row never served; the message has the last lines.
        """
        failures = 0
        pause = FIRST_PAUSE
        first = begin = time.monotonic()
        while True:
            # A killed server leaves its socket behind, which would look like a server that serves.
            self._socket.unlink(missing_ok=True)
            self._child = child = Child(self._command, self._relay)
            served = await self._served(child, again=begin != first)
            code = await child.wait()
            failures = 0 if served else failures + 1
            if failures == GIVE_UP_AFTER:
                raise ModelServerFailed(
                    f"The model server ended {failures} times without having served (exit code {code}). "
                    f"Its last lines:\n\n{child.last_lines(TAIL_LINES)}"
                )
            pause = FIRST_PAUSE if time.monotonic() - begin > STEADY_SECONDS else pause
            self._terminal.note(f"the model server ended (exit code {code}) and is started again in {pause:.1f} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            begin = time.monotonic()

    async def stop(self, grace: float, forced: asyncio.Event) -> None:
        """Stop the current child; call this after `run` has been cancelled."""
        if self._child is not None:
            await self._child.stop(grace, forced)

    def _relay(self, line: str) -> None:
        if not TENSORFLOW_NOISE.match(line):
            self._terminal.relay(line)

    async def _served(self, child: Child, *, again: bool) -> bool:
        """Wait for the child's end and return whether its socket was seen; `again` says so of it."""
        served = False
        while not served and child.running:
            served = self._socket.exists()
            await child.ended_within(SOCKET_INTERVAL)
        if served and again:
            self._terminal.note("the model server serves again")
        await child.wait()
        return served


def welcome(gateway: Endpoint, models: tuple[str, ...], seconds: float, settings: Mapping[str, str]) -> str:
    """Return what to try; `settings` are the gateway's environment variables, keys of which are never in the text."""
    keyed = any(settings.get(name) for name in KEYS) and not _true(settings.get("MICROTOME_ALLOW_ANONYMOUS", ""))
    first = ", with your key for YOUR_KEY\n\n    export MICROTOME_API_KEY=YOUR_KEY" if keyed else "\n"
    photos = f"photos    {gateway.url}/ in a browser\n" if _true(settings.get("MICROTOME_PAGE", "")) else ""
    operations = settings.get("MICROTOME_OPERATIONS_PORT")
    metrics = replace(gateway, port=int(operations)) if operations and operations.isdecimal() else gateway
    encrypted = ", with TLS" if gateway.grpc_target and settings.get("MICROTOME_GRPC_CERTIFICATE") else ""
    return f"""
Microtome serves {", ".join(models)} on {gateway.url} (ready after {seconds:.1f} s). Try{first}
    {curl_line(gateway, example_image(Path.cwd()), os.environ, keyed=keyed)}

{photos}docs      {gateway.url}/docs
metrics   {metrics.url}/metrics
gRPC      {gateway.grpc_target or "none"}{encrypted}
stop      Ctrl-C
"""


def curl_line(gateway: Endpoint, image: Path, environment: Mapping[str, str], *, keyed: bool = False) -> str:
    """Return a command that sends `image`, with its path quoted and proxies bypassed, and the key of a variable."""
    # In -F, curl interprets , and ; unless the path is in double quotes.
    path = f'"{image}"' if set(str(image)) & set(",;") else str(image)
    proxied = any(environment.get(name) for name in ("http_proxy", "all_proxy", "ALL_PROXY"))
    words = shlex.join([*(["--noproxy", "*"] if proxied else []), "-F", f"image=@{path}", f"{gateway.url}/embed"])
    return f'curl -H "Authorization: Bearer $MICROTOME_API_KEY" {words}' if keyed else f"curl {words}"


def _true(setting: str) -> bool:
    return setting.lower() in {"true", "1", "yes", "on", "t", "y"}


def example_image(here: Path) -> Path:
    """Return a photo to send: the repository's, relative to `here` if it is below; without one, a name to replace."""
    if (here / EXAMPLE).is_file():
        return EXAMPLE
    photo = REPOSITORY / EXAMPLE
    return photo if photo.is_file() else Path("YOUR_PHOTO.jpg")
