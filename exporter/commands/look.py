"""`microtome look`: what a layer sees."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.commands.arguments import parse_size
from exporter.errors import CannotPublish, ImpossibleOption, UnknownModel
from microtome.errors import shown

if TYPE_CHECKING:
    from exporter.look.subject import Request, Subject
    from exporter.recipe.resolved import ModelRecipe

_RECIPES = (".yaml", ".yml")
_MOST = 1_000_000

DESCRIPTION = (
    "Show what a layer sees, as one HTML file: for its strongest channels the nine photos that excite each most, cut "
    "to what a position sees, beside their DeconvNet reconstructions (Zeiler and Fergus); and heat maps: channel norm, "
    "EigenCAM, LayerCAM to a class and to another photo. A run that was ended goes on where it was."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "source",
        metavar="RECIPE|BACKBONE",
        help="a recipe file, or a backbone such as VGG16; FILE.keras, FILE.h5, MODULE:FUNCTION or keras_hub:PRESET for "
        "your own",
    )
    parser.add_argument("--layer", required=True, metavar="LAYER", help="a layer with a map, see microtome layers")
    parser.add_argument(
        "--photos", type=Path, default=Path("examples"), metavar="DIR", help="a folder of photos (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("look.html"), metavar="FILE", help="the report (%(default)s)")
    parser.add_argument(
        "--channels",
        type=_count,
        default=32,
        metavar="N",
        help="the N strongest channels; 0: heat maps only (%(default)s)",
    )
    parser.add_argument("--heat", type=_count, default=6, metavar="N", help="heat maps of N photos (%(default)s)")
    parser.add_argument(
        "--class", dest="class_index", type=_count, metavar="N", help="explain this class (each photo's highest)"
    )
    parser.add_argument("--like", type=Path, metavar="PHOTO", help="compare with this photo (each photo's nearest)")
    parser.add_argument("--model", metavar="NAME", help="the recipe's model, where it has several")
    parser.add_argument("--weights", help="of a backbone: imagenet, random or a file (imagenet, or a model's own)")
    parser.add_argument("--size", type=parse_size, metavar="HxW", help="input size of a backbone, in pixels (its own)")


def run(arguments: argparse.Namespace) -> int:
    """Look, write the report, and say in a line what is in it."""
    from exporter.runtime.tensorflow_ready import tensorflow_ready  # noqa: PLC0415

    started = time.monotonic()
    recipe = _recipe(arguments)
    photos = _photos(arguments)
    with tensorflow_ready(gpu=True):
        from exporter.look.html import report  # noqa: PLC0415
        from exporter.look.pipeline import look  # noqa: PLC0415
        from exporter.look.subject import Request  # noqa: PLC0415

        pooling = next(
            (one.pooling for one in recipe.outputs if one.layers == (arguments.layer,) and one.pooling != "none"), "avg"
        )
        request = Request(
            arguments.layer, pooling, photos, arguments.photos, arguments.out,
            arguments.channels, arguments.heat, arguments.class_index, arguments.like,
        )  # fmt: skip
        found = look(_subject(recipe, request), request)
        _write(arguments.out, report(found))
    parts = [f"{len(found.channels)} channels"] * bool(arguments.channels) + [f"{found.photos:,} photos"]
    parts += [f"{len(found.left_out)} left out"] * bool(found.left_out)
    line = f"{arguments.out}: {arguments.layer} of {found.subject.name}, {', '.join(parts)}; "
    print(shown(f"{line}{time.monotonic() - started:.0f} s"))  # noqa: T201 -- the command's result
    return 0


def _recipe(arguments: argparse.Namespace) -> ModelRecipe:
    """Return the recipe, or one made of a backbone's name, without TensorFlow."""
    from exporter.recipe.backbones import find_backbone  # noqa: PLC0415
    from exporter.recipe.own_backbones import is_own  # noqa: PLC0415
    from exporter.recipe.preprocessing import resolve  # noqa: PLC0415
    from exporter.recipe.reading import read_recipe  # noqa: PLC0415
    from exporter.recipe.resolved import ModelRecipe, OutputRecipe  # noqa: PLC0415

    if arguments.source.endswith(_RECIPES):
        if arguments.weights is not None or arguments.size is not None:
            raise ImpossibleOption(
                "Expected --weights and --size with a backbone only. Received: a recipe, which has its own."
            )
        file = read_recipe(Path(arguments.source))
        chosen = file.select(arguments.model)
        if len(chosen) > 1:
            names = ", ".join(model.name for model in chosen)
            raise UnknownModel(f"Expected --model with one of {names}. Received: a recipe of {len(chosen)} models.")
        return chosen[0]
    if arguments.model is not None:
        raise ImpossibleOption(f"Expected --model with a recipe. Received: the backbone {arguments.source}.")
    row = find_backbone(arguments.source)
    weights = arguments.weights or ("own" if is_own(arguments.source) else "imagenet")
    size = {} if arguments.size is None else {"height": arguments.size[0], "width": arguments.size[1]}
    output = OutputRecipe("layer", arguments.layer, "none")
    return ModelRecipe(row.name, row.name, weights, resolve(row.preprocessing, size), (output,), output.name)


def _photos(arguments: argparse.Namespace) -> tuple[Path, ...]:
    from exporter.recipe.files import SUFFIXES, image_files  # noqa: PLC0415

    folder = arguments.photos
    if not folder.is_dir():
        what = "another file" if folder.exists() else "not there"
        raise ImpossibleOption(f"Expected --photos with a folder of photos. Received: {folder}, which is {what}.")
    found = image_files(folder, _MOST)
    if not found:
        raise ImpossibleOption(f"Expected photos in {folder}. Received: none ({', '.join(sorted(SUFFIXES))}).")
    if arguments.like is not None and not arguments.like.is_file():
        raise ImpossibleOption(f"Expected --like with a photo. Received: {arguments.like}, which is not there.")
    if not arguments.channels and not arguments.heat:
        raise ImpossibleOption("Expected channels or heat maps. Received: --channels 0 and --heat 0.")
    if arguments.out.is_dir():
        raise ImpossibleOption(f"Expected --out with a file, such as look.html. Received: the folder {arguments.out}.")
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotPublish(f"Expected to write {arguments.out}. Received: {error.strerror}.") from error
    if not os.access(arguments.out.parent, os.W_OK):
        raise CannotPublish(f"Expected a folder that can be written to. Received: {arguments.out.parent}.")
    return tuple(found)


def _subject(recipe: ModelRecipe, request: Request) -> Subject:
    """Build the backbone; where its weights are not here yet, the layer is looked for before (decision 17)."""
    from dataclasses import replace  # noqa: PLC0415
    from typing import cast  # noqa: PLC0415

    import keras  # noqa: PLC0415

    from exporter.look.subject import Subject  # noqa: PLC0415
    from exporter.models.building import build  # noqa: PLC0415
    from exporter.recipe.backbones import BACKBONES, Scaling, find_backbone  # noqa: PLC0415
    from exporter.recipe.images import read_pixels  # noqa: PLC0415
    from exporter.runtime.terminal import stage  # noqa: PLC0415

    row = find_backbone(recipe.backbone)
    if recipe.scaling is not None:
        row = replace(row, scaling=cast("Scaling", recipe.scaling))
    if request.like is not None:
        read_pixels(request.like, recipe.pixels)
    if row.name in BACKBONES and recipe.weights != "random":
        with stage(f"Looking for {request.layer} in {row.name}"):
            keras.utils.clear_session()  # restarts the numbering of unnamed layers
            architecture = build(row, None, recipe.pixels, include_top=recipe.include_top)
            Subject(architecture, recipe.pixels, request.layer).want(request)
    with stage(f"Building {Path(row.name).name} with {recipe.weights} weights"):
        keras.utils.clear_session()
        built = build(row, recipe.weights, recipe.pixels, include_top=recipe.include_top)
    subject = Subject(built, recipe.pixels, request.layer)
    subject.want(request)
    return subject


def _write(out: Path, text: str) -> None:
    draft = out.with_name(f".{out.name}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(out)
    except OSError as error:
        raise CannotPublish(f"Expected to write {out}. Received: {error.strerror}.") from error


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more. Received: {text!r}.")
    return int(text)
