"""A resolved recipe: every default is filled in, every path is absolute.

A version records paths relative to the recipe's folder, so that it does not depend on this machine's directories.
Recorded paths begin with `./` or `../`, which distinguishes `./ResNet50.keras` from a name.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from exporter.errors import ImpossibleOption, UnknownModel, nearest
from exporter.recipe.own_backbones import PRESET_PREFIX
from exporter.recipe.pooling_names import PoolingName
from exporter.recipe.preprocessing import recorded
from exporter.recipe.yaml_tree import Loc, YamlTree, listed
from microtome.manifest import InputSpec, Label, TokenizerSpec, TokensSpec

WEIGHTS = ("imagenet", "random")
OWN_WEIGHTS = "own"
"""The weights that a `.keras` file or the user's function comes with."""
NORMALIZATIONS = ("none", "l2")
QUANTIZATIONS = ("none", "int8")
KINDS = ("embedding", "classes", "numbers")
IMAGENET = "imagenet"
LAST_LAYER = "-1"
AUTO = "auto"
PRECISIONS = ("float32", "bfloat16", "float16", AUTO)
JOINT = "projection"
"""The layer, and the output, in which the towers of a family meet."""
_OF_IMAGES = {
    "input": "whose length and tokenizer are the preset's",
    "calibration": "which nothing is fitted for",
    "include_top": "which has no classifier",
}
"""Keys of models that a text tower does not have, and why."""
_LATER = {
    "tolerance": None, "kind": "embedding", "labels": None, "activation": None, "temperature": 1.0, "threshold": None,
    "head": None, "units": None,
}  # fmt: skip
"""Fields of outputs that came after the first recorded recipes, with their defaults."""
DEFAULT_MAX_BATCH_SIZE = 32
DEFAULT_CALIBRATION_IMAGES = 2000


@dataclass(frozen=True, slots=True)
class Projection:
    """A projection to fewer dimensions.

    Attributes:
        kind: `pca` or `random`.
        dim: Length of the short vector.
        whiten: Whether PCA components are scaled to variance one.
        seed: Of the random matrix.
    """

    kind: str
    dim: int
    whiten: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class OutputRecipe:
    """One named output: its layers, and the steps from their feature maps to a vector.

    Attributes:
        name: What clients ask for.
        layer: The layer to cut at, or the first of several.
        pooling: In the notation of `exporter.recipe.pooling_names`.
        more_layers: Further layers, whose pooled vectors are appended, each normalised first.
        projection: To fewer dimensions; None keeps all.
        normalize: One of `NORMALIZATIONS`; the last step.
        quantization: One of `QUANTIZATIONS`; `int8` puts ranges into the manifest.
        tolerance: Largest deviation from the golden vectors, relative L2; None for the precision's own.
        kind: One of `KINDS`. Of `classes`, the vector is what the layer gives before its activation.
        labels: Of classes and numbers: one for each number of the vector; or, of classes, `IMAGENET`.
        activation: Of classes: turns logits into scores; None for the layer's own.
        temperature: Of classes: logits are divided by it before the activation.
        threshold: Of classes: an image whose best score is lower is rejected; None rejects none.
        head: Of classes and numbers: absolute path of trained layers on the vector; None where the layer is a
            classifier.
        units: Of numbers: one for each, empty where it has none; None where none has one.
    """

    name: str
    layer: str
    pooling: str = "avg"
    more_layers: tuple[str, ...] = ()
    projection: Projection | None = None
    normalize: str = "none"
    quantization: str = "none"
    tolerance: float | None = None
    kind: str = "embedding"
    labels: str | tuple[Label, ...] | None = None
    activation: str | None = None
    temperature: float = 1.0
    threshold: float | None = None
    head: str | None = None
    units: tuple[str, ...] | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers, in order."""
        return (self.layer, *self.more_layers)

    @property
    def cuts(self) -> tuple[str, ...]:
        """The names of its layers' tensors in a slice: logits and all tokens are other tensors than a layer's own."""
        if self.of_classifier:
            return (f"{self.layer} before its activation",)
        pooling = PoolingName.parse(self.pooling)
        of = "" if pooling.of_patches else " at its own token" if pooling.kind == "cls" else " with all tokens"
        return tuple(f"{layer}{of}" for layer in self.layers)

    @property
    def of_classifier(self) -> bool:
        """Whether its layer is a classifier, so that its vector is that layer's logits."""
        return self.kind == "classes" and self.head is None

    @property
    def needs_calibration(self) -> bool:
        """Whether this output is fitted on calibration images."""
        return self.quantization != "none" or (self.projection is not None and self.projection.kind == "pca")


@dataclass(frozen=True, slots=True)
class Calibration:
    """The images that projections and ranges are fitted on.

    Attributes:
        folder: Their folder, searched recursively.
        images: Most images that are used.
        digest: SHA-256 over the contents of the used files, so that other images give another recipe.
    """

    folder: str
    images: int
    digest: str


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """One SavedModel: a backbone, its weights, and the layers it is cut at.

    Attributes:
        name: Of the model and its directory.
        backbone: A row of the table, or an own model: an absolute path ending in `.keras`, or `module:function`.
        weights: `imagenet`, `random`, `own`, or the absolute path of a weights file.
        input: The preprocessing of images, or how a text becomes token ids.
        outputs: The embeddings.
        default_output: For requests that name none.
        max_batch_size: The largest batch that a model server runs.
        precision: Of the arithmetic; vectors are always float32. `AUTO`: bfloat16 if it costs nothing.
        version: The number to publish as; None for the next free one.
        scaling: What the graph does to pixels of 0 to 255; None for the backbone's own.
        include_top: Whether the classifier is built; None for where the weights allow it.
        calibration: The images that projections and ranges are fitted on.
        tower: `image` or `text`.
        family: The name that requests give for both towers; None for a model of its own.
        files: SHA-256 by path, of the user's own files among backbone and weights.
        folder: Absolute path of the recipe's folder, which recorded paths are relative to; empty if unknown.
    """

    name: str
    backbone: str
    weights: str
    input: InputSpec | TokensSpec
    outputs: tuple[OutputRecipe, ...]
    default_output: str
    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE
    precision: str = "float32"
    version: int | None = None
    scaling: str | None = None
    include_top: bool | None = None
    calibration: Calibration | None = None
    files: tuple[tuple[str, str], ...] = ()
    tower: str = "image"
    family: str | None = None
    folder: str = field(default="", compare=False)

    @property
    def pixels(self) -> InputSpec:
        """The preprocessing of images.

        Raises:
            ImpossibleOption: It is a text tower.
        """
        if isinstance(self.input, InputSpec):
            return self.input
        raise ImpossibleOption(f"Expected a model of images. Received: {self.name}, which takes text.")

    @property
    def tolerances(self) -> dict[str, float]:
        """The tolerances that this recipe sets, by output; those of the precision are not among them."""
        return {output.name: output.tolerance for output in self.outputs if output.tolerance is not None}

    def canonical(self) -> str:
        """Return the recipe as JSON that is equal for equal recipes.

        Explicit defaults, comments, order, the file's name and folder, and the machine change nothing.
        """
        entry = {**asdict(self), "input": recorded(self.input)}
        del entry["folder"]
        if self.family is None:  # as in recipes that were recorded before there were towers
            del entry["family"], entry["tower"]
        for output in entry["outputs"]:
            for name, usual in _LATER.items():  # recipes that were recorded before there were such fields
                if output[name] == usual:
                    del output[name]
        return json.dumps(_recorded(entry, self.folder), indent=1, sort_keys=True)

    @classmethod
    def from_canonical(cls, text: str, folder: Path = Path()) -> Self:
        """Return the recipe that `canonical` wrote.

        Args:
            text: The JSON.
            folder: The folder that recorded paths are relative to.

        Raises:
            ValueError: The text is not such JSON.
        """
        try:
            start = str(folder.absolute())
            found: dict[str, Any] = {**_found_again(json.loads(text), start), "folder": start}
            found["input"] = _input(found["input"])
            found["outputs"] = tuple(_output(output) for output in found["outputs"])
            found["calibration"] = found["calibration"] and Calibration(**found["calibration"])
            found["files"] = tuple((path, digest) for path, digest in found["files"])
            return cls(**found)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a recipe entry: {error}") from error


@dataclass(frozen=True, slots=True)
class Recipe:
    """All models of one recipe file.

    Attributes:
        path: The file.
        models: Its models.
        tree: The file's data with the line of every value.
    """

    path: Path
    models: tuple[ModelRecipe, ...]
    tree: YamlTree = field(repr=False)

    def select(self, name: str | None) -> tuple[ModelRecipe, ...]:
        """Return the model of that name, or all of them for None.

        Raises:
            UnknownModel: The recipe has no such model.
        """
        if name is None:
            return self.models
        chosen = tuple(model for model in self.models if model.name == name)
        if not chosen:
            names = [model.name for model in self.models]
            raise UnknownModel(
                f"Expected one of the models of {self.path}: {', '.join(names)}. "
                f"Received: {name!r}. {nearest(name, names)}"
            )
        return chosen


def check_towers(tree: YamlTree, models: Sequence[ModelRecipe], names: Sequence[str]) -> None:
    """Note text towers of which what images have is said, and families whose towers cannot be used together.

    Args:
        tree: The file.
        models: Its models.
        names: Of the models, as the file has them.
    """
    families: dict[str, list[int]] = {}
    for index, model in enumerate(models):
        loc = ("models", index)
        if model.tower == "text":
            _check_text(tree, loc, model)
        if model.family is not None:
            families.setdefault(model.family, []).append(index)
            _check_member(tree, loc, model)
    for family, places in families.items():
        at, members = ("models", places[-1], "family"), [models[index] for index in places]
        presets = sorted({model.backbone for model in members})
        if family in names:
            tree.note(
                at, f"expected the name of a family to be that of no model. Received: {family!r}, which is one's."
            )
        if sorted(model.tower for model in members) != ["image", "text"]:
            given = " and ".join(f"{model.name} of tower: {model.tower}" for model in members)
            wanted = f"expected two models of the family {family}, of tower: image and of tower: text"
            tree.note(at, f"{wanted}. Received: {given}.")
        elif len(presets) > 1:
            wanted = f"expected one backbone for both towers of the family {family}"
            tree.note(at, f"{wanted}. Received: {' and '.join(presets)}.")


def _check_text(tree: YamlTree, loc: Loc, model: ModelRecipe) -> None:
    if model.family is None:
        wanted = "expected family: NAME with tower: text, and a model of the same family for images"
        tree.note((*loc, "tower"), f"{wanted}. Received: no family.")
    for key, why in _OF_IMAGES.items():
        if key in tree.keys(loc):
            tree.note((*loc, key), f"expected no {key} with tower: text, {why}. Received: it.")
    if model.precision == AUTO:
        tree.note((*loc, "precision"), f"expected {', '.join(PRECISIONS[:-1])} with tower: text. Received: auto.")
    for index, output in enumerate(model.outputs):
        at = (*loc, "outputs", index)
        if PoolingName.parse(output.pooling).kind in ("map", "spp"):
            wanted = "expected avg, max, gem, cls, flatten or none with tower: text, whose tokens are no map"
            tree.note((*at, "pooling"), f"{wanted}. Received: {output.pooling}.")
        fitted = output.projection is not None and output.projection.kind == "pca"
        for key, value, received in (
            ("kind", output.kind, output.kind != "embedding"),
            ("projection", "pca", fitted),
            ("quantization", output.quantization, output.quantization != "none"),
        ):
            if received:
                wanted = f"expected no {key}: {value} with tower: text, since it is made from images"
                tree.note((*at, key), f"{wanted}. Received: it.")


def _check_member(tree: YamlTree, loc: Loc, model: ModelRecipe) -> None:
    """Check that a tower of a family is a preset's, with its weights, and has the output in which both meet."""
    if not model.backbone.startswith(PRESET_PREFIX):
        wanted = f"expected backbone: {PRESET_PREFIX}PRESET of images and text with family"
        tree.note((*loc, "backbone"), f"{wanted}. Received: {model.backbone}.")
    elif model.weights != OWN_WEIGHTS:
        wanted = "expected no weights with family, whose preset brings those of both towers"
        tree.note((*loc, "weights"), f"{wanted}. Received: {model.weights}.")
    names = [output.name for output in model.outputs]
    joint = {replace(output, normalize="none", tolerance=None) for output in model.outputs if output.name == JOINT}
    if joint != {OutputRecipe(JOINT, JOINT, "none")}:
        wanted = (
            f"expected an output {{name: {JOINT}, layer: {JOINT}, pooling: none}}, in which the towers of a family meet"
        )
        tree.note((*loc, "outputs"), f"{wanted}. Received: {'another one' if joint else f'only {listed(names)}'}.")


def _input(found: Mapping[str, Any]) -> InputSpec | TokensSpec:
    if found.get("kind") == "tokens":
        return TokensSpec(**{**found, "tokenizer": TokenizerSpec(**found["tokenizer"])})
    return InputSpec(**found)


def _output(found: Mapping[str, Any]) -> OutputRecipe:
    projection = found["projection"] and Projection(**found["projection"])
    labels = found.get("labels")
    if isinstance(labels, list):
        labels = tuple(Label(**label) for label in labels)
    more_layers = tuple(found["more_layers"])
    units = found.get("units") and tuple(found["units"])
    return OutputRecipe(
        **{**found, "more_layers": more_layers, "projection": projection, "labels": labels, "units": units}
    )


def _recorded(entry: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return a recipe as a dictionary with absolute paths made relative to this folder."""

    def relative(path: str) -> str:
        if not folder or not Path(path).is_absolute():
            return path
        found = os.path.relpath(path, folder)
        return found if found.startswith("../") else f"./{found}"

    return _paths_replaced(entry, relative)


def _found_again(entry: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return a recorded dictionary with its paths made absolute, from this folder."""

    def absolute(path: str) -> str:
        return os.path.normpath(Path(folder, path)) if path.startswith(("./", "../")) else path

    return _paths_replaced(entry, absolute)


def _paths_replaced(entry: dict[str, Any], replace: Callable[[str], str]) -> dict[str, Any]:
    def source(text: str) -> str:
        prefix = PRESET_PREFIX if text.startswith(PRESET_PREFIX) else ""
        return prefix + replace(text.removeprefix(prefix))

    calibration = entry["calibration"]
    outputs = [
        {**output, "head": replace(output["head"])} if output.get("head") else output for output in entry["outputs"]
    ]
    return {
        **entry,
        "backbone": source(entry["backbone"]),
        "weights": source(entry["weights"]),
        "outputs": outputs,
        "calibration": calibration and {**calibration, "folder": replace(calibration["folder"])},
        "files": [[replace(path), digest] for path, digest in entry["files"]],
    }
