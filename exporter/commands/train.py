"""`microtome train`: a classifier from a folder of photos, or a head that says numbers from a list of them."""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import ImpossibleOption, nearest
from microtome.errors import shown

if TYPE_CHECKING:
    from exporter.recipe.resolved import ModelRecipe, OutputRecipe
    from exporter.train.regression import NumberKind

_HEADS = ("logistic", "mean", "mlp", "ridge")
OWN_WEIGHTS = "own"
_REFUSED = 0.05
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

DESCRIPTION = (
    "Train a classifier on your own photos, or a head that says numbers such as a box, on an output of a recipe, "
    "and write a recipe of it for microtome export, with a report of what it reaches on photos that it has not seen."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "photos",
        type=Path,
        metavar="PHOTOS",
        help="a folder with a folder for each class, perhaps below train and test; or a CSV file with the columns "
        "path, label and perhaps group and split; or path and columns of numbers, such as weight [kg]",
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
        "--head",
        choices=_HEADS,
        help="logistic (the usual), mean (nearest class mean, for very few photos), or mlp; of numbers: ridge (the "
        "usual), or mlp",
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
        metavar="RATE",
        help="share of photos of these classes that may be refused, so that others are; 0 refuses none (0.05)",
    )
    parser.add_argument(
        "--groups",
        metavar="PATTERN",
        help="photos of a group are never trained on and tested on: folder, or a regular expression on a photo's name",
    )
    tuning = parser.add_argument_group("fine-tuning")
    tuning.add_argument(
        "--unfreeze",
        metavar="LAYER",
        help="train the backbone also, from this layer on: a name, an index such as 249, or -N for the last N layers",
    )
    tuning.add_argument("--weights", choices=("random",), help="from scratch: train all of a backbone")
    tuning.add_argument("--epochs", type=_count, default=10, metavar="N", help="at most (%(default)s)")
    tuning.add_argument(
        "--rate", type=_learning_rate, metavar="RATE", help="of learning at first (1e-5; 1e-3 from scratch)"
    )
    tuning.add_argument("--batch", type=_count, default=16, metavar="N", help="photos of a step (%(default)s)")
    tuning.add_argument(
        "--device",
        choices=("auto", "cpu", "gpu"),
        default="auto",
        help="to fine-tune on (a GPU if there is one)",
    )
    parser.add_argument("--name", metavar="NAME", help="of the new model (the name of --out)")
    parser.add_argument("--out", type=Path, default=Path("trained"), metavar="DIR", help="results (%(default)s/)")
    parser.add_argument("--seed", type=_count, default=0, metavar="N", help="of all that is drawn (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Train, write the results, and say in a few lines what came of it."""
    from exporter.features.logistic import want_scikit_learn  # noqa: PLC0415
    from exporter.features.measured_photos import has_numbers, read_numbers  # noqa: PLC0415
    from exporter.features.photos import read_classes  # noqa: PLC0415
    from exporter.runtime.tensorflow_ready import tensorflow_ready  # noqa: PLC0415

    started = time.monotonic()
    name = _name(arguments.name, arguments.out)
    hidden = _hidden(arguments.head, arguments.hidden)
    want_scikit_learn("microtome train")
    recipe, output, entry = _source(arguments.source, arguments.model)
    if arguments.weights is not None:
        recipe, entry = _from_scratch(recipe, entry)
    scratch = arguments.weights is not None
    wanted = scratch or arguments.unfreeze is not None
    if not wanted and (arguments.rate is not None or arguments.device == "gpu"):
        raise ImpossibleOption("Expected --unfreeze with --rate or --device, which fine-tune. Received: none.")
    if not arguments.batch or not arguments.epochs:
        raise ImpossibleOption("Expected --batch and --epochs of at least 1. Received: 0.")
    if has_numbers(arguments.photos):
        _only_for_classes(arguments)
        measured = read_numbers(arguments.photos, arguments.groups)
        _make(arguments.out)
        with tensorflow_ready():
            from exporter.train.number_outputs import summary_of_numbers, write_numbers  # noqa: PLC0415
            from exporter.train.numbers import NumberRequest, train_numbers  # noqa: PLC0415

            kind: NumberKind = "mlp" if hidden else "ridge"
            asked = NumberRequest(recipe, output, entry, name, arguments.out, kind, hidden, arguments.seed)
            said = train_numbers(asked, measured)
            write_numbers(said)
        _print(summary_of_numbers(said, time.monotonic() - started))
        return 0
    if arguments.head == "ridge":
        raise ImpossibleOption(
            "Expected --head logistic, mean or mlp for classes. Received: ridge, which says numbers."
        )
    collection = read_classes(arguments.photos, arguments.groups)
    _make(arguments.out)
    with tensorflow_ready(gpu=wanted and arguments.device != "cpu"):
        from exporter.train.fine_tuning import LOW_RATE, SCRATCH_RATE, Tuning  # noqa: PLC0415
        from exporter.train.outputs import summary, write  # noqa: PLC0415
        from exporter.train.pipeline import Request, train  # noqa: PLC0415

        tuning = None
        if wanted:
            tuning = Tuning(
                unfreeze="0" if scratch else arguments.unfreeze,
                epochs=arguments.epochs,
                rate=arguments.rate or (SCRATCH_RATE if scratch else LOW_RATE),
                batch=arguments.batch,
                scratch=scratch,
                device=_device(arguments.device),
            )
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
            refuse=_REFUSED if arguments.refuse is None else arguments.refuse,
            seed=arguments.seed,
            tuning=tuning,
        )
        found = train(request, collection)
        write(found)
    _print(summary(found, time.monotonic() - started))
    return 0


def _print(text: str) -> None:
    for line in text.splitlines():
        print(shown(line))  # noqa: T201 -- the command's result


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImpossibleOption(f"Expected a folder for the results. Received: {folder}: {error}.") from error


def _only_for_classes(arguments: argparse.Namespace) -> None:
    """Check that nothing is asked of numbers that only classes have.

    Raises:
        ImpossibleOption: Something is.
    """
    given = {
        "--head": arguments.head in {"logistic", "mean"},
        "--copies": arguments.copies > 0,
        "--balanced": arguments.balanced,
        "--refuse": arguments.refuse is not None,
        "--unfreeze": arguments.unfreeze is not None,
        "--weights": arguments.weights is not None,
    }
    wrong = [option for option, said in given.items() if said]
    if wrong:
        raise ImpossibleOption(
            f"Expected {wrong[0]} with classes only. Received: it with {arguments.photos}, which has numbers. "
            + ("Say --head ridge or --head mlp." if wrong[0] == "--head" else f"Leave {wrong[0]} out.")
        )


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
            f"Expected an output with vectors to train on ({others}). Received: {wanted}, which is of {output.kind}. "
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


def _from_scratch(recipe: ModelRecipe, entry: dict[str, Any]) -> tuple[ModelRecipe, dict[str, Any]]:
    """Return a model with random weights."""
    if recipe.weights == OWN_WEIGHTS:
        raise ImpossibleOption(
            f"Expected a backbone of the table for --weights random. Received: {Path(recipe.backbone).name}, which "
            "comes with its own."
        )
    files = tuple((path, digest) for path, digest in recipe.files if path != recipe.weights)
    return replace(recipe, weights="random", files=files), {**entry, "weights": "random"}


def _device(said: str) -> str:
    """Return TensorFlow's name of the device to train on.

    Raises:
        ImpossibleOption: A GPU is wanted, and there is none.
    """
    import tensorflow as tf  # noqa: PLC0415

    there = bool(tf.config.list_physical_devices("GPU")) if said != "cpu" else False
    if said == "gpu" and not there:
        raise ImpossibleOption("Expected a GPU that TensorFlow can use. Received: none. Say --device cpu.")
    return "/GPU:0" if there else "/CPU:0"


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


def _learning_rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1:
        raise argparse.ArgumentTypeError(f"expected a rate above 0 and at most 1, such as 1e-5. Received: {text!r}.")
    return rate


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 0.5:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 0.5, such as 0.05. Received: {text!r}.")
    return rate
