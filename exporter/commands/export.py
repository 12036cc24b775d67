"""`microtome export`: from a recipe to verified SavedModels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.recipe.resolved import ModelRecipe


DESCRIPTION = "Export the models of a recipe, each verified."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="a recipe file, such as recipe.yaml")
    parser.add_argument(
        "--out", type=Path, default=Path("models"), metavar="DIR", help="models directory (%(default)s)"
    )
    parser.add_argument("--model", metavar="NAME", help="only this model of the recipe")
    parser.add_argument(
        "--force", action="store_true", help="publish a new version even if the newest is from this very recipe"
    )
    parser.add_argument(
        "--no-verify", action="store_true", help="publish without comparing the written version with Keras first"
    )
    parser.add_argument(
        "--served-from",
        type=_absolute,
        metavar="DIR",
        help="where TensorFlow Serving will find the models directory, for models.config (where it is now)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Export the models that are not published yet."""
    from exporter.recipe.reading import read_recipe  # noqa: PLC0415

    file = read_recipe(arguments.recipe)
    chosen = file.select(arguments.model)
    wanted = [recipe for recipe in chosen if arguments.force or not _is_there(arguments.out, recipe)]
    if not wanted:
        return 0
    from exporter.runtime.tensorflow_ready import tensorflow_ready  # noqa: PLC0415

    with tensorflow_ready():
        from exporter.export import check_layers, export  # noqa: PLC0415

        check_layers(file, wanted)
        for recipe in wanted:
            published = export(
                recipe, arguments.out, verified=not arguments.no_verify, served_from=arguments.served_from
            )
            print(published.line(), flush=True)  # noqa: T201
    return 0


def _absolute(text: str) -> Path:
    if not Path(text).is_absolute():
        raise argparse.ArgumentTypeError(f"expected an absolute path, as TensorFlow Serving does. Received: {text!r}.")
    return Path(text)


def _is_there(models: Path, recipe: ModelRecipe) -> bool:
    from exporter.savedmodel.publication import published_version  # noqa: PLC0415

    version = published_version(models, recipe)
    if version is not None:
        said = f"{recipe.name} version {version} is already there, from this very recipe"
        print(f"{said} (--force exports it again)")  # noqa: T201
    return version is not None
