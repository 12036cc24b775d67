"""`microtome layers`: where a backbone can be cut."""

from __future__ import annotations

import argparse

from exporter.commands import COMMANDS


def add_to(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser("layers", help=COMMANDS["layers"], description="List where a backbone can be cut.")
    parser.add_argument("backbone", metavar="BACKBONE", help="such as EfficientNetLite0 or ResNet50")


def run(arguments: argparse.Namespace) -> int:
    """Print one line for each layer."""
    from exporter.backbones import find_backbone  # noqa: PLC0415
    from exporter.tensorflow_ready import tensorflow_ready  # noqa: PLC0415

    find_backbone(arguments.backbone)  # a mistyped name is answered without waiting for TensorFlow
    with tensorflow_ready():
        from exporter.listing import layers_of, print_layers  # noqa: PLC0415

        rows = layers_of(arguments.backbone)
    print_layers(rows)
    return 0
