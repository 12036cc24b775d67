"""The children of `microtome up` for given options: their command lines and environments."""

import os
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from microtome.commands.up.addresses import Endpoint, is_loopback
from microtome.commands.up.errors import CannotStart
from microtome.commands.up.processes import Command

ADMISSION = ("MICROTOME_API_KEYS", "MICROTOME_API_KEYS_FILE", "MICROTOME_ALLOW_ANONYMOUS")
"""Settings that decide who may call the gateway."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The processes of one `microtome up`.

    Attributes:
        models: Names of the models to serve.
        endpoint: Where the gateway will listen.
        gateway: The gateway's command.
        model_server: The embedded model server's command; None when another one is used.
        socket: The embedded model server opens it once it serves.
    """

    models: tuple[str, ...]
    endpoint: Endpoint
    gateway: Command
    model_server: Command | None
    socket: Path

    def models_loaded(self) -> bool:
        """Whether the embedded model server serves; true when another one is used."""
        return self.model_server is None or self.socket.exists()


def make(options: Namespace, models: tuple[str, ...], endpoint: Endpoint, socket: Path) -> Plan:
    """Return what to run; `socket` is a path for the embedded model server's socket."""
    embedded = None if options.model_server else model_server(options, socket)
    address = options.model_server or f"unix:{socket}"
    return Plan(models, endpoint, gateway(options, models, endpoint, address), embedded, socket)


def gateway(options: Namespace, models: tuple[str, ...], endpoint: Endpoint, address: str) -> Command:
    """Return the gateway's command; it is configured by its environment only."""
    environment = {
        "MICROTOME_HOST": endpoint.host,
        "MICROTOME_PORT": str(endpoint.port),
        "MICROTOME_MODEL_SERVER": address,
        # The embedded server finds models that are exported later, and can list them.
        "MICROTOME_MODELS": ",".join(models if options.model_server else (*models, "*")),
        "MICROTOME_LOG_LEVEL": log_level(),
        "MICROTOME_PAGE": os.environ.get("MICROTOME_PAGE") or "true",
        **admission(endpoint.host),
    }
    if endpoint.grpc_port is not None:
        environment["MICROTOME_GRPC_PORT"] = str(endpoint.grpc_port)
    if options.redis is not None:
        environment["MICROTOME_REDIS_URL"] = options.redis
    return Command("gateway", followed("service"), environment)


def admission(host: str) -> dict[str, str]:
    """Return the setting that admits callers on this machine; none where the environment has one already.

    Raises:
        CannotStart: Other machines can connect, and neither API keys nor anonymous access are configured.
    """
    if any(os.environ.get(name) for name in ADMISSION):
        return {}
    if is_loopback(host):
        return {"MICROTOME_ALLOW_ANONYMOUS": "true"}
    raise CannotStart(
        f"On {host} others can connect. Set MICROTOME_API_KEYS or MICROTOME_API_KEYS_FILE (docs/reference/settings.md) "
        "or MICROTOME_ALLOW_ANONYMOUS=true to serve all who do; or stay on --host 127.0.0.1."
    )


def model_server(options: Namespace, socket: Path) -> Command:
    """Return the embedded model server's command; it listens on a Unix socket only."""
    words = (
        *(sys.executable, "-m", "modelserver"),
        f"--models_dir={options.models_dir}",
        "--port=0",
        f"--grpc_socket_path={socket}",
        f"--engine={options.engine}",
        "--enable_batching=true",
        "--enable_serialization_as_tensor_content=true",
        "--exit_with_parent=true",
        f"--log_level={log_level()}",
    )
    return Command("model server", words)


def log_level() -> str:
    """Return both servers' log level; higher than their default, so that the banner stays visible."""
    return os.environ.get("MICROTOME_LOG_LEVEL", "warning")


def exporter(recipe: Path, models_dir: Path) -> Command:
    """Return the exporter's command."""
    return Command("exporter", followed("exporter", "export", str(recipe), "--out", str(models_dir)))


def layers(backbone: str) -> Command:
    """Return the command that lists a backbone's layers as JSON on standard output."""
    return Command("layers", followed("exporter", "layers", "--all", "--json", "--", backbone))


def followed(*words: str) -> tuple[str, ...]:
    """Return the command of a module, with its arguments, that ends when this process does."""
    return (sys.executable, "-m", "microtome.parent", str(os.getpid()), *words)
