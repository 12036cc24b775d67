"""Watch over the gateway and the model server until one of them ends for good or somebody says stop."""

import asyncio
from collections.abc import Coroutine, Iterable
from contextlib import suppress

from microtome.up.errors import GatewayEnded
from microtome.up.model_server import ModelServerKeeper
from microtome.up.plan import Plan
from microtome.up.processes import Child
from microtome.up.readiness import until_ready
from microtome.up.stopping import StopRequests
from microtome.up.terminal import Terminal
from microtome.up.welcome import welcome

# Longer than either allows itself (MICROTOME_DRAIN, --shutdown_grace_seconds): what takes this long is stuck.
GRACE_SECONDS = 60.0


async def supervise(plan: Plan, terminal: Terminal, stop: StopRequests) -> None:
    """Run the plan's processes; return after a clean stop.

    Raises:
        GatewayEnded: When the gateway ended by itself.
        ModelServerFailed: When the embedded model server cannot be kept alive.
    """
    keeper = None
    if plan.model_server is not None and plan.socket is not None:
        keeper = ModelServerKeeper(plan.model_server, plan.socket, terminal)
    gateway = Child(plan.gateway, terminal.relay)
    duties: list[Coroutine[object, object, object]] = [_fail_with(gateway), stop.asked.wait(), _greet(plan, terminal)]
    if keeper is not None:
        duties.append(keeper.run())
    try:
        await _first_to_matter(duties, stop)
    finally:
        terminal.waiting(None)
        if stop.asked.is_set():
            terminal.note("stopping; Ctrl-C again does not wait")
        # In this order: the gateway needs the model server to finish what is in flight.
        await gateway.stop(GRACE_SECONDS, stop.at_once)
        if keeper is not None:
            await keeper.stop(GRACE_SECONDS, stop.at_once)


async def _first_to_matter(duties: Iterable[Coroutine[object, object, object]], stop: StopRequests) -> None:
    """Run all until a stop is asked for or one of them raises."""
    tasks = {asyncio.ensure_future(duty) for duty in duties}
    pending = tasks
    try:
        while not stop.asked.is_set():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in pending:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*pending, return_exceptions=True)


async def _fail_with(gateway: Child) -> None:
    code = await gateway.wait()
    raise GatewayEnded(f"The gateway ended by itself (exit code {code}); what it said is above.", exit_code=code)


async def _greet(plan: Plan, terminal: Terminal) -> None:
    seconds = await until_ready(plan.endpoint, plan.models_loaded, terminal.waiting)
    terminal.say(welcome(plan.endpoint, plan.models, seconds))
