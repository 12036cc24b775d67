"""The exporter's commands: `microtome export` and `microtome layers`.

TensorFlow takes seconds to import and YAML and rich take their share, so nothing is imported before it is needed:
`--help` and a mistyped option are answered at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import exporter
from exporter.errors import ExporterError, VerificationFailed
from exporter.quiet import native_noise_withheld

_VERIFICATION_FAILED = 1
_USER_ERROR = 2
_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Without the program's name; the process's own for None.

    Returns:
        0, or 1 when a verification failed, 2 when the user must change something, 130 when interrupted.
    """
    arguments = build_parser().parse_args(argv)
    try:
        if arguments.command == "layers":
            return _layers(arguments.backbone)
        return _export(arguments.recipe, arguments.out, arguments.model, force=arguments.force)
    except ExporterError as error:
        sys.stderr.write(f"microtome: {error}\n")
        return _VERIFICATION_FAILED if isinstance(error, VerificationFailed) else _USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("microtome: interrupted, nothing half-written is left.\n")
        return _INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Describe the exporter's command line."""
    parser = argparse.ArgumentParser(prog="microtome", description=exporter.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    export = commands.add_parser(
        "export", help="export the models of a recipe", description="Export the models of a recipe, each verified."
    )
    export.add_argument("recipe", type=Path, metavar="RECIPE", help="a recipe file, such as recipe.yaml")
    export.add_argument(
        "--out", type=Path, default=Path("models"), metavar="DIR", help="models directory (%(default)s)"
    )
    export.add_argument("--model", metavar="NAME", help="only this model of the recipe")
    export.add_argument(
        "--force", action="store_true", help="publish a new version even if the newest is from this very recipe"
    )
    layers = commands.add_parser(
        "layers", help="list the layers of a backbone", description="List where a backbone can be cut."
    )
    layers.add_argument("backbone", metavar="BACKBONE", help="such as EfficientNetLite0 or ResNet50")
    return parser


def _export(file: Path, models: Path, name: str | None, *, force: bool) -> int:
    from exporter.publication import published_version  # noqa: PLC0415
    from exporter.recipe_file import read_recipe  # noqa: PLC0415

    wanted = []
    for recipe in read_recipe(file).select(name):
        version = None if force else published_version(models, recipe)
        if version is None:
            wanted.append(recipe)
        else:
            print(f"{recipe.name} version {version} is already there, from this very recipe (--force exports anew)")  # noqa: T201
    if not wanted:
        return 0
    with native_noise_withheld():
        _prepare_tensorflow()
        from exporter.pipeline import export  # noqa: PLC0415

        for recipe in wanted:
            print(export(recipe, models).line(), flush=True)  # noqa: T201
    return 0


def _layers(backbone: str) -> int:
    from exporter.backbones import find_backbone  # noqa: PLC0415

    find_backbone(backbone)  # a mistyped name is answered without waiting for TensorFlow
    with native_noise_withheld():
        _prepare_tensorflow()
        from exporter.listing import layers_of, print_layers  # noqa: PLC0415

        rows = layers_of(backbone)
    print_layers(rows)
    return 0


def _prepare_tensorflow() -> None:
    """Import TensorFlow quietly, on the CPU, as Keras' backend, whatever the user's own settings are."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # a GPU's arithmetic (TF32) differs by more than we promise
    os.environ["KERAS_BACKEND"] = "tensorflow"

    from exporter.progress import stage  # noqa: PLC0415

    with stage("Loading TensorFlow"):
        import keras  # noqa: PLC0415
        import tensorflow as tf  # noqa: PLC0415

    tf.get_logger().setLevel("ERROR")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
