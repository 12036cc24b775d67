"""`microtome up --model`: a recipe for a backbone that is cut at some layers, made once and kept beside the models.

`MODELS/NAME.yaml` belongs to the models `MODELS/NAME/1`, … A file that the user has edited is left alone.
"""

import json
import re
import shlex
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from exporter.errors import ExporterError, nearest
from exporter.recipe.backbones import BACKBONES, find_backbone
from exporter.recipe.own_backbones import is_own
from exporter.recipe.pooling_names import SPELLINGS, PoolingName
from exporter.recipe.resolved import WEIGHTS
from exporter.recipe.writing import in_one_line, write_files
from exporter.savedmodel.publication import models_with_versions
from microtome.commands.up import plan
from microtome.commands.up.errors import CannotStart
from microtome.commands.up.processes import Child
from microtome.commands.up.signals import StopRequests
from microtome.commands.up.terminal import Terminal
from microtome.errors import shown

KERAS_FILES = (".keras", ".h5", ".hdf5")
GRACE_SECONDS = 10.0
LONGEST_NAME = 56
_INDEX = r"-?\d+"
ONLY_WITH_MODEL = ("layer", "pooling", "weights", "scaling")


def check(options: Namespace) -> None:
    """Refuse options that contradict each other, and names that are none; write out paths and spellings.

    Raises:
        CannotStart: What was expected, and the nearest names.
    """
    given = [name for name in ONLY_WITH_MODEL if getattr(options, name) is not None]
    if options.model is None:
        if given:
            raise CannotStart(f"--{given[0]} goes with --model, such as --model ResNet50; a recipe says it itself.")
        return
    if options.recipe is not None:
        raise CannotStart("--recipe and --model contradict each other: give one of them.")
    if options.model_server is not None:
        raise CannotStart("--model exports a model, and with --model-server nothing is exported: give one of them.")
    own = options.model.endswith(KERAS_FILES)
    if own:
        options.model = _file("--model", options.model)
        if options.scaling is None:
            raise CannotStart(
                f"--model {options.model} needs --scaling, since no file says what its network wants done to pixels of "
                "0 to 255: none, caffe (minus ImageNet's mean, BGR), tf (-1 to 1) or torch (minus mean, by deviation)."
            )
    elif options.model not in BACKBONES:
        raise CannotStart(_unknown(options.model))
    elif options.scaling is not None:
        raise CannotStart(f"--scaling is for a FILE.keras; how {options.model} wants its pixels is known.")
    words = () if own else WEIGHTS
    if options.weights is not None and options.weights not in words:
        options.weights = _file("--weights", options.weights, *words)
    if options.pooling is not None:
        try:
            options.pooling = str(PoolingName.parse(options.pooling))
        except ValueError:
            near = nearest(options.pooling, SPELLINGS)
            raise CannotStart(
                f"Expected --pooling to be one of {', '.join(SPELLINGS)}. Received: {options.pooling!r}. {near}"
            ) from None


def _unknown(name: str) -> str:
    if not is_own(name):
        try:
            find_backbone(name)
        except ExporterError as error:
            return str(error)
    return (
        f"Expected --model to be a backbone's name or FILE.keras. Received: {name!r}, which takes a recipe, since "
        "its input size has to be said: see backbone in docs/reference/recipe.md."
    )


def _file(option: str, text: str, *words: str) -> str:
    path = Path(text).expanduser()
    if path.is_file():
        return str(path.absolute())
    expected, near = "a file", ""
    if words:
        expected, near = f"{', '.join(words)}, or a file", f" {nearest(text, words)}"
    raise CannotStart(f"Expected {option} to be {expected}. Received: {text!r}; {path.absolute()} is not there.{near}")


async def recipe(options: Namespace, terminal: Terminal, stop: StopRequests) -> Path | None:
    """Return the recipe of these options, made if it is not there yet; None when a stop is requested meanwhile.

    Raises:
        CannotStart: The backbone has no such layer, or the recipe cannot be written.
    """
    found = _made_earlier(options)
    if found is not None:
        terminal.note(f"{options.model} is served by the recipe {found}, which was made for it earlier")
        return found
    points = await _points(options.model, terminal, stop)
    if points is None:
        return None
    outputs = [_output(point, options, terminal) for point in _chosen(points, options)]
    path, text = _kept(options, outputs)
    terminal.note(f"this recipe was made, and is kept in {path}; edit it, and serve it with --recipe {path}\n\n{text}")
    return path


def _made_earlier(options: Namespace) -> Path | None:
    models: Path = options.models_dir
    return next((path for path in sorted(models.glob("*.yaml")) if _is_unedited(path, options)), None)


def _kept(options: Namespace, outputs: Sequence[tuple[str, str]]) -> tuple[Path, str]:
    """Write a recipe of layers and poolings under a name that is free; return its file and its text."""
    models: Path = options.models_dir
    name = _free_name(models, _stem(options, outputs))
    text = _text(name, options, outputs)
    try:
        models.mkdir(parents=True, exist_ok=True)
        write_files(models, {f"{name}.yaml": text})
    except OSError as error:
        raise CannotStart(
            f"The recipe cannot be kept in {models}: {error.strerror}. Choose another --models-dir."
        ) from error
    return models / f"{name}.yaml", text


def _marker(options: Namespace) -> str:
    """Return a recipe's first line: the command that makes it."""
    words = ["microtome", "up", "--model", options.model]
    for name in ONLY_WITH_MODEL:
        values = getattr(options, name) or []
        words += [f"--{name}={value}" for value in ([values] if isinstance(values, str) else values)]
    return f"# {shown(shlex.join(words))}\n"


def _is_unedited(path: Path, options: Namespace) -> bool:
    """Whether a file is what these options make."""
    try:
        text = path.read_text(encoding="utf-8")
        if not text.startswith(_marker(options)):
            return False
        (entry,) = yaml.safe_load(text)["models"]
        outputs = [(output["layer"], output["pooling"]) for output in entry["outputs"]]
        # An index has become a name.
        asked = [layer for layer in options.layer or [""] if not re.fullmatch(_INDEX, layer)]
        as_asked = len(options.layer or [""]) == len(outputs) and {*asked} - {""} <= {layer for layer, _ in outputs}
        poolings = {pooling for _, pooling in outputs} <= {"none", options.pooling or "avg"}
        name = entry["name"]
        return as_asked and poolings and name == path.stem and text == _text(name, options, outputs)
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return False


async def _points(backbone: str, terminal: Terminal, stop: StopRequests) -> list[dict[str, Any]] | None:
    """Ask the exporter for the layers; None when a stop is requested meanwhile."""
    begin = time.monotonic()
    with tempfile.TemporaryFile() as out:
        child = Child(plan.layers(backbone), relay=None, out=out)
        try:
            while not stop.requested.is_set() and not await child.ended_within(0.1):
                terminal.waiting(f"looking at the layers of {backbone}", time.monotonic() - begin)
            if stop.requested.is_set():
                return None
            if await child.wait() != 0:
                raise CannotStart(f"{backbone} cannot be built; the exporter's message is above.")
        finally:
            terminal.waiting(None)
            await child.stop(GRACE_SECONDS, stop.forced)
        out.seek(0)
        points: list[dict[str, Any]] = json.load(out)
    return points


def _chosen(points: Sequence[dict[str, Any]], options: Namespace) -> list[dict[str, Any]]:
    """Return the points of the layers that were asked for, or the usual one.

    Raises:
        CannotStart: There is no such layer.
    """
    if options.layer is None:
        usual = [point for point in points if point["default_cut"]]
        if not usual:
            raise CannotStart(f"{options.model} has no usual cut: name one with --layer.")
        return usual
    last = max((point["index"] for point in points if point["index"] is not None), default=0)
    found = []
    for layer in options.layer:
        place = int(layer) + (last + 1) * layer.startswith("-") if re.fullmatch(_INDEX, layer) else -1
        point = next((one for one in points if layer == one["name"] or place == one["index"]), None)
        if point is None:
            near = nearest(layer, [one["name"] for one in points])
            raise CannotStart(
                f"Expected --layer to be a layer of {options.model}. Received: {layer!r}. {near} All of them: "
                f"microtome layers {shlex.quote(options.model)} --all"
            )
        found.append(point)
    return found


def _output(point: dict[str, Any], options: Namespace, terminal: Terminal) -> tuple[str, str]:
    """Return the layer and its pooling."""
    is_map = len(point["shape"]) in (3, 4)
    if not is_map and options.pooling not in (None, "none"):
        terminal.note(f"{point['name']} is a vector already, so there is nothing to pool: --pooling is left out for it")
    return point["name"], (options.pooling or "avg") if is_map else "none"


def _stem(options: Namespace, outputs: Sequence[tuple[str, str]]) -> str:
    """Return a name that says what is served."""
    parts = [Path(options.model).stem.lower(), *(layer for layer, _ in outputs)]
    parts += [word for word in (options.pooling, options.scaling) if word is not None]
    if options.weights not in (None, "imagenet"):
        parts.append(Path(options.weights).stem)
    return _slug("-".join(parts))[:LONGEST_NAME]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-._") or "model"


def _free_name(models: Path, stem: str) -> str:
    taken = set(models_with_versions(models)) if models.is_dir() else set()
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 10_000))
    return next(name for name in names if name not in taken and not (models / f"{name}.yaml").exists())


def _text(name: str, options: Namespace, outputs: Sequence[tuple[str, str]]) -> str:
    """Return the recipe."""
    own = options.model not in BACKBONES
    weights = options.weights or (None if own else "imagenet")
    lines = [f"  - name: {in_one_line(name)}", f"    backbone: {in_one_line(options.model)}"]
    lines += [f"    weights: {in_one_line(weights)}"] if weights else []
    lines += [f"    input: {in_one_line({'scaling': options.scaling})}"] if own else []
    names = [_slug(layer) for layer, _ in outputs]
    entries = (
        {"name": name if names.count(name) == 1 else f"{name}-{place}", "layer": layer, "pooling": pooling}
        for place, (name, (layer, pooling)) in enumerate(zip(names, outputs, strict=True), 1)
    )
    lines += ["    outputs:", *(f"      - {in_one_line(entry)}" for entry in entries)]
    return "\n".join([f"{_marker(options)}models:", *lines, ""])
