"""`microtome up`: its options, their defaults and their meaning."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

DESCRIPTION = """\
Serve a recipe's models on this machine, or a backbone cut at a layer: export those that are missing, start the embedded
model server and the gateway, say what to try, and watch over both until Ctrl-C."""

EPILOG = """\
The options win over the environment variables named beside them; every other MICROTOME_* variable reaches the gateway
as it is. The log of both processes goes to standard error, from level "warning" on: MICROTOME_LOG_LEVEL=info says more.

Ctrl-C (or SIGTERM) finishes what is in flight, stops everything and exits with 0; a second one does not wait."""

ENGINES = ("auto", "openvino", "tensorflow")
SCALINGS = ("none", "caffe", "tf", "torch")
"""As in recipes."""


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    environment = os.environ
    parser = argparse.ArgumentParser(
        prog="microtome up",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--recipe", type=Path, help="what to serve (recipe.yaml; where there is none, the one that is installed)")
    add(
        "--model",
        metavar="BACKBONE",
        help="serve a backbone without a recipe: a name such as ResNet50, or FILE.keras; the recipe that is made for "
        "it is printed, and kept beside the exported models",
    )
    add(
        "--layer",
        action="append",
        help="with --model: where it is cut, repeatable; microtome layers BACKBONE lists them (the last feature map "
        "before the classifier)",
    )
    add("--pooling", help="with --model: how feature maps become vectors: avg, max, gem(3), spp(1,2,4), … (avg)")
    add("--weights", help="with --model: imagenet, random, or a file of weights (imagenet; those of FILE.keras)")
    add(
        "--scaling",
        choices=SCALINGS,
        help="with --model FILE.keras, where it has to be said: what the network wants done to pixels of 0 to 255",
    )
    add("--models-dir", type=Path, default=Path("models"), help="where exported models are (models)")
    add(
        "--host",
        default=environment.get("MICROTOME_HOST", "127.0.0.1"),
        help="address to serve on; 0.0.0.0 for every network (127.0.0.1, or MICROTOME_HOST)",
    )
    add(
        "--port",
        type=_port,
        default=environment.get("MICROTOME_PORT", "8000"),
        help="port to serve on; 0 takes a free one (8000, or MICROTOME_PORT)",
    )
    add(
        "--grpc-port",
        type=_port,
        default=environment.get("MICROTOME_GRPC_PORT") or None,
        help="port to serve gRPC on; 0 takes a free one (the next free one after --port, or MICROTOME_GRPC_PORT)",
    )
    add(
        "--model-server",
        metavar="ADDRESS",
        default=environment.get("MICROTOME_MODEL_SERVER") or None,
        help="host:port or unix:/path of a TensorFlow Serving (or modelserver) that has the recipe's models; then "
        "nothing is exported and no embedded model server is started (or MICROTOME_MODEL_SERVER)",
    )
    add(
        "--redis",
        metavar="URL",
        default=environment.get("MICROTOME_REDIS_URL") or None,
        help="redis://host:port/0 keeps vectors between restarts and between gateways (or MICROTOME_REDIS_URL)",
    )
    add(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="what computes in the embedded model server: openvino, tensorflow, or auto, which takes OpenVINO where it "
        "is installed and computes a model's golden vectors, and else TensorFlow (auto)",
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the command line, whose first word is `up`, and return its exit code."""
    options = build_parser().parse_args(argv[1:])
    from microtome.commands.up.run import run  # noqa: PLC0415, so that --help is instant

    return run(options)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, received {text!r}")
    return int(text)
