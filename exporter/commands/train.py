"""`microtome train`: a classifier from a folder of photos."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import ImpossibleOption, nearest
from microtome.errors import shown

if TYPE_CHECKING:
    from exporter.recipe.resolved import ModelRecipe, OutputRecipe

_HEADS = ("logistic", "mean", "mlp")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

DESCRIPTION = (
    "Train a classifier on your own photos, on top of an output of a recipe, and write a recipe of it for microtome "
    "export, with a report of what it reaches on photos that it has not seen."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "photos",
        type=Path,
        metavar="PHOTOS",
        help="a folder with a folder for each class, perhaps below train and test; or a CSV file with the columns "
        "path, label and perhaps group and split",
    )
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="RECIPE[:OUTPUT]",
        help="a recipe, and its output whose vectors are learnt from (its default output)",
    )
    parser.add_argument("--model", metavar="NAME", help="the model of the recipe, where it has several")
    parser.add_argument(
        "--head", choices=_HEADS, help="logistic (the usual), mean (nearest class mean, for very few photos), or mlp"
    )
    parser.add_argument(
        "--hidden",
        type=_sizes,
        default=(),
        metavar="SIZES",
        help="hidden layers of --head mlp, such as 512,128 (256)",
    )
    parser.add_argument(
        "--copies", type=_count, default=0, metavar="N", help="altered copies of each training photo (%(default)s)"
    )
    parser.add_argument("--balanced", action="store_true", help="every class weighs the same, whatever its size")
    parser.add_argument(
        "--refuse",
        type=_rate,
        default=0.05,
        metavar="RATE",
        help="share of photos of these classes that may be refused, so that others are; 0 refuses none (%(default)s)",
    )
    parser.add_argument(
        "--groups",
        metavar="PATTERN",
        help="photos of a group are never trained on and tested on: folder, or a regular expression on a photo's name",
    )
    parser.add_argument("--name", metavar="NAME", help="of the new model (the name of --out)")
    parser.add_argument("--out", type=Path, default=Path("trained"), metavar="DIR", help="results (%(default)s/)")
    parser.add_argument("--seed", type=_count, default=0, metavar="N", help="of all that is drawn (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Train, write the results, and say in a few lines what came of it."""
    from exporter.features.logistic import want_scikit_learn  # noqa: PLC0415
    from exporter.features.photos import read_classes  # noqa: PLC0415
    from exporter.runtime.tensorflow_ready import tensorflow_ready  # noqa: PLC0415

    started = time.monotonic()
    name = _name(arguments.name, arguments.out)
    hidden = _hidden(arguments.head, arguments.hidden)
    want_scikit_learn("microtome train")
    recipe, output, entry = _source(arguments.source, arguments.model)
    collection = read_classes(arguments.photos, arguments.groups)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImpossibleOption(f"Expected a folder for the results. Received: {arguments.out}: {error}.") from error
    with tensorflow_ready():
        from exporter.train.outputs import summary, write  # noqa: PLC0415
        from exporter.train.pipeline import Request, train  # noqa: PLC0415

        request = Request(
            recipe=recipe,
            output=output,
            entry=entry,
            name=name,
            out=arguments.out,
            kind=arguments.head,
            hidden=hidden,
            copies=arguments.copies,
            balanced=arguments.balanced,
            refuse=arguments.refuse,
            seed=arguments.seed,
        )
        found = train(request, collection)
        write(found)
    for line in summary(found, time.monotonic() - started).splitlines():
        print(shown(line))  # noqa: T201 -- the command's result
    return 0


def _source(text: str, model: str | None) -> tuple[ModelRecipe, OutputRecipe, dict[str, Any]]:
    """Return the model and the output that `recipe.yaml[:output]` names, and the model as the file has it.

    Raises:
        RecipeError: The recipe is not one.
        ImpossibleOption: It has no such output, or none with vectors.
    """
    from exporter.recipe.reading import read_recipe  # noqa: PLC0415

    whole = Path(text).is_file()
    path, _, name = (text, "", "") if whole else text.rpartition(":")
    file = read_recipe(Path(path or text))
    if model is None and len(file.models) > 1:
        names = ", ".join(one.name for one in file.models)
        raise ImpossibleOption(f"Expected --model with one of {names}. Received: none.")
    (recipe,) = file.select(model)
    outputs = {one.name: one for one in recipe.outputs}
    wanted = name or recipe.default_output
    if wanted not in outputs:
        raise ImpossibleOption(
            f"Expected an output of {recipe.name} in {path}: {', '.join(outputs)}. Received: {wanted!r}. "
            f"{nearest(wanted, outputs)}"
        )
    output = outputs[wanted]
    if output.kind != "embedding":
        others = ", ".join(one.name for one in recipe.outputs if one.kind == "embedding") or "none in this recipe"
        raise ImpossibleOption(
            f"Expected an output with vectors to train on ({others}). Received: {wanted}, which has classes. "
            f"Say --from {path or text}:OUTPUT."
        )
    entry: dict[str, Any] = file.tree.value(("models", file.models.index(recipe)))
    return recipe, output, entry


def _name(given: str | None, out: Path) -> str:
    """Return the new model's name, or that of the folder of results."""
    if given is not None and not _NAME.fullmatch(given):
        raise ImpossibleOption(
            f"Expected --name of up to 64 letters, digits, _ . or -, a letter or digit first. Received: {given!r}."
        )
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", out.absolute().name).lstrip("_.-")[:64]
    return given or plain or "trained"


def _hidden(head: str | None, sizes: tuple[int, ...]) -> tuple[int, ...]:
    if sizes and head not in {None, "mlp"}:
        raise ImpossibleOption(f"Expected --hidden with --head mlp. Received: --head {head}.")
    return sizes or ((256,) if head == "mlp" else ())


def _sizes(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if not all(size.isascii() and size.isdecimal() and 0 < int(size) <= 65_536 for size in sizes) or len(sizes) > 4:
        raise argparse.ArgumentTypeError(f"expected one to four sizes, such as 1024 or 512,128. Received: {text!r}.")
    return tuple(map(int, sizes))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0. Received: {text!r}.")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 0.5:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 0.5, such as 0.05. Received: {text!r}.")
    return rate
