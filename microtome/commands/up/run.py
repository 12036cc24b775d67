"""One `microtome up` from start to end: check, export, serve, stop."""

import asyncio
import fcntl
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import exporter
from exporter.errors import ExporterError
from exporter.recipe.reading import read_recipe
from exporter.savedmodel.publication import published_version
from microtome.commands.up import addresses, backbone, plan
from microtome.commands.up.addresses import Endpoint
from microtome.commands.up.errors import CannotStart, ExportFailed, UpError
from microtome.commands.up.processes import Child
from microtome.commands.up.signals import StopRequests, listening
from microtome.commands.up.supervisor import supervise
from microtome.commands.up.terminal import Terminal

GRACE_SECONDS = 10.0


def run(options: Namespace) -> int:
    """Serve until stopped; return the exit code, 0 after a clean stop."""
    terminal = Terminal(sys.stdout, sys.stderr)
    try:
        asyncio.run(_session(options, terminal))
    except UpError as failure:
        terminal.note(str(failure))
        return failure.exit_code
    except KeyboardInterrupt:
        # Only possible before the signal handlers are installed, when nothing has been started yet.
        return 130
    return 0


async def _session(options: Namespace, terminal: Terminal) -> None:
    if options.model_server is not None:
        addresses.check_model_server(options.model_server)
    if options.redis is not None:
        addresses.check_redis(options.redis)
        if trouble := await asyncio.to_thread(addresses.redis_trouble, options.redis):
            terminal.note(trouble)
    plan.admission(options.host)
    backbone.check(options)
    recipe = None if options.model else options.recipe or _default_recipe(terminal)
    models = model_names(recipe) if recipe else ()
    endpoint = _endpoint(options)
    with addresses.private_socket() as socket, listening() as stop:
        if recipe is None:
            recipe = await backbone.recipe(options, terminal, stop)
            models = model_names(recipe) if recipe else ()
        if recipe and options.model_server is None:
            try:
                await export_missing(recipe, options.models_dir, terminal, stop)
            except ExportFailed as error:
                if not options.model:
                    raise
                # As made for these options, and of no use: it would only be in the way.
                recipe.unlink(missing_ok=True)
                advice = "A file of weights goes here with --weights FILE, and the recipe that was made is gone."
                raise ExportFailed(f"{error} {advice}") from error
            # Exporting takes long enough for another process to take the ports.
            endpoint = _endpoint(options)
        if not stop.requested.is_set():
            await supervise(plan.make(options, models, endpoint, socket), terminal, stop)


def _default_recipe(terminal: Terminal) -> Path:
    here, installed = Path("recipe.yaml"), installed_recipe()
    if here.is_file():
        return here
    terminal.note(f"there is no recipe.yaml in {Path.cwd()}, so the default one is served: {installed}")
    return installed


def installed_recipe() -> Path:
    """Return the default recipe, which comes with the exporter."""
    return Path(exporter.__file__).with_name("recipe.yaml")


def model_names(recipe: Path) -> tuple[str, ...]:
    """Return the names of the recipe's models.

    Raises:
        CannotStart: There is no recipe, or it cannot be read.
    """
    if not recipe.is_file():
        raise CannotStart(f"There is no recipe {recipe} in {Path.cwd()}. Name yours: --recipe path/to/recipe.yaml")
    try:
        return tuple(model.name for model in read_recipe(recipe).models)
    except ExporterError as error:
        raise CannotStart(str(error)) from error


async def export_missing(recipe: Path, models_dir: Path, terminal: Terminal, stop: StopRequests) -> None:
    """Export the models that are not in `models_dir`; return early when a stop is requested.

    Raises:
        ExportFailed: The exporter ended with an error.
    """
    if not missing_models(recipe, models_dir):
        return
    with await _alone(models_dir, terminal, stop):
        # Another one may have exported them meanwhile.
        if (missing := missing_models(recipe, models_dir)) and not stop.requested.is_set():
            await _export(missing, recipe, models_dir, terminal, stop)


def missing_models(recipe: Path, models_dir: Path) -> list[str]:
    """Return the names of the recipe's models that are not in `models_dir`."""
    return [model.name for model in read_recipe(recipe).models if published_version(models_dir, model) is None]


def _lock_file(models_dir: Path) -> IO[bytes]:
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        return (models_dir / ".exporting").open("ab")
    except OSError as error:
        raise CannotStart(f"Cannot write to {models_dir}: {error.strerror}. Name another: --models-dir") from error


async def _alone(models_dir: Path, terminal: Terminal, stop: StopRequests) -> IO[bytes]:
    """Wait until no other `up` exports to a directory, or a stop is requested; it may when the file is closed."""
    lock = _lock_file(models_dir)
    told = False
    while not stop.requested.is_set():
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                terminal.note(f"another microtome exports to {models_dir}; waiting until it is done")
            told = True
            await asyncio.sleep(0.1)
        else:
            break
    return lock


async def _export(
    missing: Sequence[str], recipe: Path, models_dir: Path, terminal: Terminal, stop: StopRequests
) -> None:
    terminal.note(f"exporting {', '.join(missing)} to {models_dir}; the next start finds what is there")
    child = Child(plan.exporter(recipe, models_dir), relay=None)
    try:
        while not stop.requested.is_set() and not await child.ended_within(0.1):
            pass
        if not stop.requested.is_set() and await child.wait() != 0:
            raise ExportFailed(f"The models of {recipe} could not be exported; the exporter's message is above.")
    finally:
        await child.stop(GRACE_SECONDS, stop.forced)


def _endpoint(options: Namespace) -> Endpoint:
    port = addresses.claim(options.host, options.port)
    if options.grpc_port is None:
        return Endpoint(options.host, port, addresses.next_free(options.host, port))
    return Endpoint(options.host, port, addresses.claim(options.host, options.grpc_port, "--grpc-port"))
