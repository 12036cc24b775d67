"""The options of `microtome up`, their defaults and what they mean."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

DESCRIPTION = """\
Serve a recipe's models on this machine: export those that are missing, start the embedded model server and the
gateway, say what to try, and watch over both until Ctrl-C."""

EPILOG = """\
The options win over the environment variables named beside them; every other MICROTOME_* variable reaches the gateway
as it is. The log of both processes goes to standard error, from level "warning" on: MICROTOME_LOG_LEVEL=info says more.

Ctrl-C (or SIGTERM) finishes what is in flight, stops everything and exits with 0; a second one does not wait."""

ENGINES = ("tensorflow", "openvino")


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller of `microtome up` chose."""

    recipe: Path
    models_dir: Path
    host: str
    port: int
    grpc_port: int | None
    model_server: str | None
    redis: str | None
    engine: str = "tensorflow"


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options to `parser`."""
    environment = os.environ
    parser.add_argument("--recipe", type=Path, default=Path("recipe.yaml"), help="what to serve (recipe.yaml)")
    parser.add_argument("--models-dir", type=Path, default=Path("models"), help="where exported models are (models)")
    parser.add_argument(
        "--host",
        default=environment.get("MICROTOME_HOST", "127.0.0.1"),
        help="address to serve on; 0.0.0.0 for every network (127.0.0.1, or MICROTOME_HOST)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=environment.get("MICROTOME_PORT", "8000"),
        help="port to serve on; 0 takes a free one (8000, or MICROTOME_PORT)",
    )
    parser.add_argument(
        "--grpc-port",
        type=_port,
        default=environment.get("MICROTOME_GRPC_PORT") or None,
        help="port to serve gRPC on; 0 takes a free one (the next free one after --port, or MICROTOME_GRPC_PORT)",
    )
    parser.add_argument(
        "--model-server",
        metavar="ADDRESS",
        default=environment.get("MICROTOME_MODEL_SERVER") or None,
        help="host:port or unix:/path of a TensorFlow Serving (or modelserver) that has the recipe's models; then "
        "nothing is exported and no embedded model server is started (or MICROTOME_MODEL_SERVER)",
    )
    parser.add_argument(
        "--redis",
        metavar="URL",
        default=environment.get("MICROTOME_REDIS_URL") or None,
        help="redis://host:port/0 keeps vectors between restarts and between gateways (or MICROTOME_REDIS_URL)",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="what computes in the embedded model server (tensorflow); openvino has to be installed",
    )


def read(parsed: argparse.Namespace) -> Options:
    """Give the parsed options their types."""
    return Options(
        recipe=parsed.recipe,
        models_dir=parsed.models_dir,
        host=parsed.host,
        port=parsed.port,
        grpc_port=parsed.grpc_port,
        model_server=parsed.model_server,
        redis=parsed.redis,
        engine=parsed.engine,
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, received {text!r}")
    return int(text)
