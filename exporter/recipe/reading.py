"""Read a recipe file: strictly, without TensorFlow, and with every problem reported at once.

The file becomes data with the place of every value; presets are written out; the format is validated; what the format
cannot say is checked; defaults are filled in. Whether a layer exists takes the backbone: see `exporter.export`.
"""

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from exporter.errors import ImpossibleModel, UnknownBackbone, nearest
from exporter.recipe.backbones import BACKBONES, Backbone, find_backbone
from exporter.recipe.files import file_digest, image_files, images_digest
from exporter.recipe.format import ENTRIES, ModelEntry, OutputEntry, RecipeEntry
from exporter.recipe.labels import checked_labels, read_labels
from exporter.recipe.own_backbones import KERAS_FILES, PRESET_PREFIX, brings_scaling, of_another_format
from exporter.recipe.pooling_names import SPELLINGS
from exporter.recipe.preprocessing import impossibilities, resolve
from exporter.recipe.presets import write_out_presets
from exporter.recipe.resolved import (
    AUTO,
    IMAGENET,
    JOINT,
    LAST_LAYER,
    OWN_WEIGHTS,
    WEIGHTS,
    Calibration,
    ModelRecipe,
    OutputRecipe,
    Recipe,
    check_towers,
)
from exporter.recipe.yaml_tree import Loc, YamlTree, listed, read_yaml, shown
from microtome.manifest import TOLERANCES, InputSpec, Label, TokensSpec

_OF_CLASSES = ("labels", "activation", "temperature", "threshold")
_KEYS = {"classes": (*_OF_CLASSES, "head"), "numbers": ("labels", "units", "head")}
"""Keys that only outputs of a kind have."""
_NOT_OF_CLASSES = ("layers", "pooling", "projection", "normalize", "quantization")
WEIGHTS_FILES = (".h5", ".hdf5", ".keras", ".pt", ".pth")

_EXPECTED = {
    "string_type": "text",
    "string_too_short": "text",
    "string_pattern_mismatch": "up to 64 letters, digits, _ . or -, a letter or digit first",
    "bool_type": "true or false",
    "list_type": "a list with at least one item",
    "too_short": "a list with at least one item",
    "int_type": "a whole number of at least {least}",
    "greater_than_equal": "a whole number of at least {least}",
    "float_type": "a number above 0 and at most 1",
    "greater_than": "a number above 0 and at most 1",
    "less_than_equal": "a number above 0 and at most 1",
}
"""What each type of error of pydantic expects."""
_RANGES = {"temperature": "a number above 0", "threshold": "a number from 0 to 1"}
_BETWEEN = (
    "A model that is served begins with an image; what lies between two layers is saved by microtome split BACKBONE "
    "--from LAYER --to LAYER."
)
_INSTEAD = {
    "from": _BETWEEN,
    "to": _BETWEEN,
    "dtype": "Vectors leave the model server as float32; the gateway answers in float16, int8 or bits where its caller "
    "says encoding.",
}
"""What to do instead of giving a key that an output might well have."""

_OUTPUT = {"name": "a", "layer": "a"}
_MODEL = {"name": "a", "backbone": next(iter(BACKBONES)), "weights": "random", "outputs": [_OUTPUT]}
_STAND_INS = {
    "models": [_MODEL], "name": "a", "backbone": _MODEL["backbone"], "outputs": [_OUTPUT], "pca": 1, "random": 1,
}  # fmt: skip
"""Valid values in place of invalid or missing ones, so that the rest of the file can be checked too."""
_ITEM_STAND_INS = {
    "models": _MODEL, "outputs": _OUTPUT, "layers": "a", "size": 224, "labels": "a", "names": "a", "units": "a",
}  # fmt: skip


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe file.

    Raises:
        RecipeUnreadable: The file does not exist, or is not YAML.
        RecipeInvalid: It is not a recipe; carries every problem.
    """
    tree = read_yaml(path)
    write_out_presets(tree)
    entry = _validated(tree)
    models = tuple(_Model(tree, ("models", index), model).resolved() for index, model in enumerate(entry.models))
    check_towers(tree, models, _check_names(tree, ("models",)))
    tree.finish()
    return Recipe(path, models, tree)


def _validated(tree: YamlTree) -> RecipeEntry:
    """Validate the format, note what is wrong, and return the entry with stand-ins for invalid values."""
    try:
        return RecipeEntry.model_validate(tree.data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    mended = deepcopy(tree.data) if isinstance(tree.data, dict) else {"models": [_MODEL]}
    for problem in problems:
        loc = problem["loc"]
        if "projection" in loc[:-1]:  # without the tag, which says whether it is read as pca or as random
            tag = loc.index("projection") + 1
            loc = loc[:tag] + loc[tag + 1 :]
        if "labels" in loc[:-1]:  # without the key that a short form stands for
            key = loc.index("labels") + 1
            loc = loc if isinstance(tree.value(loc[:key]), dict) else loc[:key] + loc[key + 1 :]
        tree.note(loc, _message(tree, problem))
        _mend(mended, loc)
    return RecipeEntry.model_validate(mended)


def _message(tree: YamlTree, problem: ErrorDetails) -> str:
    """Return a message with expected, received and nearest for an error of pydantic."""
    kind, loc, given = problem["type"], problem["loc"], problem["input"]
    key = loc[-1] if loc else ""
    near = ""
    received = shown(given)
    if kind == "missing":
        expected, received = f"the key {key}", f"only {listed(tree.keys(loc[:-1])) or 'nothing'}"
    elif kind == "extra_forbidden":
        return _unknown_key(tuple(part for part in loc if isinstance(part, str)))
    elif kind == "union_tag_not_found" and isinstance(given, dict):
        kinds = [kind for kind in ("pca", "random") if kind in given]
        expected, received = "pca: D or random: D", " and ".join(kinds) or "neither"
    elif kind in {"model_type", "union_tag_not_found"}:
        keys = ENTRIES.get(tuple(part for part in loc if isinstance(part, str)))
        expected = f"a mapping with {', '.join(keys.model_fields) if keys else 'pca, whiten, random, seed'}"
        expected = f"text, or {expected}" if key == "calibration" else expected
    elif kind == "literal_error":
        choices = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        expected, near = f"one of {', '.join(choices)}", nearest(str(given), choices)
    elif key == "pooling" and str(given).startswith("spp(") and ")" not in str(given):
        # Within braces, YAML ends a value at a comma.
        expected = 'quotes around a pooling with commas, as in pooling: "spp(1,2)"'
    elif key == "pooling":
        expected = f"one of {', '.join(SPELLINGS)}"
        near = nearest(str(given), [name.partition("(")[0] for name in SPELLINGS])
    elif key == "background":
        expected = str(problem["ctx"]["error"])
    elif key == "size" and isinstance(given, list):
        expected, received = "pixels, or [height, width] in pixels", f"a list of {len(given)}"
    elif key in _RANGES:
        expected = _RANGES[str(key)]
    elif kind == "less_than_equal" and key != "tolerance":
        expected = f"a whole number of at most {problem['ctx']['le']}"
    else:
        expected = _EXPECTED["int_type" if key == "size" else kind].format(least=0 if key == "seed" else 1)
    return f"expected {expected}. Received: {received}. {near}".rstrip()


def _unknown_key(names: tuple[str, ...]) -> str:
    *above, key = names
    if above[-2:-1] == ["projection"] and key in {"whiten", "seed"}:
        return f"expected no {key} with {above[-1]}. Received: it."
    known = list(ENTRIES[tuple(above)].model_fields)
    way_on = _INSTEAD.get(key) if above[-1:] == ["outputs"] else None
    return f"unknown key. Expected: {', '.join(known)}. Received: {key!r}. {way_on or nearest(key, known)}"


def _mend(data: Any, loc: Loc) -> None:  # noqa: ANN401, any YAML
    """Replace an invalid or missing value by a stand-in; without one, remove the value or what lacks it."""
    path: list[tuple[Any, str | int]] = []
    for key in loc:
        if isinstance(data, dict | list):
            path.append((data, key))
            data = data.get(key) if isinstance(data, dict) else data[int(key)]
    for depth, (parent, key) in reversed(list(enumerate(path))):
        stand_in = _ITEM_STAND_INS[str(path[depth - 1][1])] if isinstance(key, int) else _STAND_INS.get(key)
        if stand_in is not None:
            parent[key] = deepcopy(stand_in)
            return
        there = key in parent
        parent.pop(key, None)
        if there or len(path) < len(loc):  # in a shorter path, the value has been removed before
            return


def _check_names(tree: YamlTree, loc: Loc) -> list[str]:
    """Return the names of the items of a list, and note those that occur twice."""
    items = tree.value(loc)
    names: list[str] = []
    for index, item in enumerate(items if isinstance(items, list) else []):
        name = item.get("name") if isinstance(item, dict) else None
        if name in names:
            tree.note((*loc, index), f"expected names that differ. Received: {name!r} twice.")
        elif name and isinstance(name, str):
            names.append(name)
    return names


class _Model:
    """Resolves one model of a valid format, and notes what the format cannot say.

    Checks of which keys are given look at the file, because the entry may have stand-ins.
    """

    def __init__(self, tree: YamlTree, loc: Loc, entry: ModelEntry) -> None:
        self._tree, self._loc, self._entry = tree, loc, entry
        self._folder = tree.file.parent
        self._keys = tree.keys(loc)

    def resolved(self) -> ModelRecipe:
        entry = self._entry
        backbone, row = self._backbone()
        own = row.name not in BACKBONES
        weights = self._weights(own=own)
        if own and entry.tower == "image":
            self._check_own_input(backbone)
        outputs = tuple(self._output(index, output) for index, output in enumerate(entry.outputs))
        return ModelRecipe(
            name=entry.name,
            backbone=backbone,
            weights=weights,
            input=self._input(row) if entry.tower == "image" else self._tokens(backbone, row),
            outputs=outputs,
            default_output=self._default_output(),
            max_batch_size=entry.max_batch_size,
            precision=entry.precision,
            version=entry.version,
            scaling=entry.input.scaling,
            include_top=self._include_top(own=own),
            calibration=self._calibration(outputs),
            files=self._files(backbone, weights, outputs),
            tower=entry.tower,
            family=entry.family if "family" in entry.model_fields_set else None,
            folder=str(self._folder.absolute()),
        )

    def _note(self, key: str, problem: str | Exception) -> None:
        self._tree.note((*self._loc, key), problem)

    def _path(self, text: str) -> Path:
        return (self._folder / Path(text).expanduser()).absolute()

    def _file(self, key: str, text: str) -> str:
        path = self._path(text)
        if not path.is_file():
            self._note(key, f"expected a file. Received: {path}, which is not there.")
        return str(path)

    def _backbone(self) -> tuple[str, Backbone]:
        name = self._entry.backbone
        if name.endswith(KERAS_FILES):
            name = self._file("backbone", name)
        elif of_another_format(self._path(name)) is not None:
            name = str(self._path(name))
        elif name.startswith(PRESET_PREFIX) and self._path(name.removeprefix(PRESET_PREFIX)).is_dir():
            name = f"{PRESET_PREFIX}{self._path(name.removeprefix(PRESET_PREFIX))}"
        try:
            return name, find_backbone(name, self._entry.weights)
        except UnknownBackbone as error:
            self._note("backbone", error)
            return name, next(iter(BACKBONES.values()))

    def _weights(self, *, own: bool) -> str:
        text = self._entry.weights
        words = (OWN_WEIGHTS,) if own else WEIGHTS
        if "weights" not in self._entry.model_fields_set:
            if not own and self._keys and "weights" not in self._keys:
                self._tree.note(self._loc, f"expected the key weights. Received: only {listed(self._keys)}.")
            return OWN_WEIGHTS
        if text.endswith(WEIGHTS_FILES):
            return self._file("weights", text)
        if text not in words:
            kinds = f"expected one of {', '.join(words)}, or a file ({' '.join(WEIGHTS_FILES)})"
            self._note("weights", f"{kinds}. Received: {text!r}. {nearest(text, words)}")
        return text

    def _files(self, backbone: str, weights: str, outputs: tuple[OutputRecipe, ...]) -> tuple[tuple[str, str], ...]:
        """Return the user's own files with their digests: backbone, weights, those of a local preset, and heads."""
        preset = Path(backbone.removeprefix(PRESET_PREFIX)) if backbone.startswith(PRESET_PREFIX) else None
        parts = sorted(preset.rglob("*")) if preset is not None and preset.is_absolute() else []
        heads = dict.fromkeys(Path(output.head) for output in outputs if output.head is not None)
        paths = (Path(backbone), Path(weights), *parts, *heads)
        return tuple((str(path), file_digest(path)) for path in paths if path.is_file())

    def _check_own_input(self, backbone: str) -> None:
        """Check that the input of an own model is given; a wrong guess would only show in the vectors."""
        if brings_scaling(backbone):
            return
        given = self._tree.keys((*self._loc, "input"))
        # A file says its own size, but not how its pixels were scaled.
        wanted = ("scaling",) if backbone.endswith(KERAS_FILES) else ("size", "scaling")
        missing = [key for key in wanted if key not in given]
        if missing:
            expected = f"expected input: with {' and '.join(missing)} for a backbone of your own"
            self._note("input", f"{expected}. Received: {listed(given) or 'nothing'}.")

    def _include_top(self, *, own: bool) -> bool | None:
        """Return whether the classifier is built; classes need it."""
        entry = self._entry
        classes = any(output.kind == "classes" and "head" not in output.model_fields_set for output in entry.outputs)
        if "include_top" not in entry.model_fields_set:
            return True if classes and not own else None
        if classes and not own and not entry.include_top:
            self._note("include_top", "expected include_top: true with kind: classes, or none. Received: false.")
        return entry.include_top

    def _input(self, row: Backbone) -> InputSpec:
        entry = self._entry.input
        chosen = entry.model_dump(exclude={"size", "scaling"}, exclude_unset=True)
        if "size" in entry.model_fields_set:
            chosen["height"], chosen["width"] = entry.size
        if "jpeg_draft" in chosen:
            draft = chosen.pop("jpeg_draft")
            meant = "balanced" if draft else "exact"
            if chosen.setdefault("decode", meant) != meant:
                received = f"decode: {chosen['decode']} and jpeg_draft: {str(draft).lower()}"
                self._note("input", f"expected decode alone. Received: {received}.")
        found = resolve(row.preprocessing, chosen)
        for problem in impossibilities(found):
            self._note("input", problem)
        if found.color != "rgb" and (row.name in BACKBONES or entry.scaling in ("caffe", "torch")):
            of = row.name if row.name in BACKBONES else f"scaling: {entry.scaling}"
            self._note("input", f"expected color: rgb with {of}, which takes three channels. Received: {found.color}.")
        return found

    def _tokens(self, backbone: str, row: Backbone) -> InputSpec | TokensSpec:
        """Return how a text becomes token ids."""
        if backbone.startswith(PRESET_PREFIX):
            from exporter.recipe.preset_tokens import preset_tokens  # noqa: PLC0415, imports NumPy

            try:
                return preset_tokens(backbone.removeprefix(PRESET_PREFIX)).spec
            except ImpossibleModel as error:
                self._note("tower", error)
        return row.preprocessing  # so that the rest can be checked

    def _output(self, index: int, entry: OutputEntry) -> OutputRecipe:
        loc = (*self._loc, "outputs", index)
        keys = self._tree.keys(loc)
        if entry.kind == "classes" and "head" not in entry.model_fields_set:
            return self._classes(loc, entry)
        self._check_keys(loc, entry, keys)
        if isinstance(self._tree.value(loc), dict) and ("layer" in keys) == ("layers" in keys):
            received = "both" if "layer" in keys else f"only {listed(keys) or 'nothing'}"
            self._tree.note(loc, f"expected the key layer, or layers for several. Received: {received}.")
        layer, *more = [entry.layer] if "layer" in entry.model_fields_set else entry.layers or [""]
        if more and entry.pooling == "none":
            problem = "expected a pooling that makes vectors, to append several layers. Received: none."
            self._tree.note((*loc, "pooling"), problem)
        projected = "projection" in entry.model_fields_set
        projection = entry.projection.as_projection() if projected else None
        if projected and entry.pooling == "none":
            problem = "expected a pooling that makes a vector, to project it. Received: pooling: none; say flatten."
            self._tree.note((*loc, "projection"), problem)
        found = OutputRecipe(
            entry.name,
            layer,
            entry.pooling,
            tuple(more),
            projection,
            entry.normalize,
            entry.quantization,
            self._tolerance(entry),
        )
        return (
            self._with_head(loc, entry, found)
            if entry.kind != "embedding" and "head" in entry.model_fields_set
            else found
        )

    def _check_keys(self, loc: Loc, entry: OutputEntry, keys: Sequence[str]) -> None:
        """Check that keys of one kind are not given with another, and that numbers have a head."""
        known = _KEYS.get(entry.kind, ())
        strange = [key for key in (*_KEYS["classes"], "units") if key in keys and key not in known]
        if strange:
            kinds = " or ".join(kind for kind, some in _KEYS.items() if strange[0] in some)
            received = "it without" if entry.kind == "embedding" else f"it with kind: {entry.kind}"
            self._tree.note((*loc, strange[0]), f"expected {strange[0]} with kind: {kinds} only. Received: {received}.")
        if entry.kind == "numbers" and "head" not in keys:
            self._tree.note(loc, "expected the key head with kind: numbers; microtome train makes one. Received: none.")

    def _with_head(self, loc: Loc, entry: OutputEntry, vector: OutputRecipe) -> OutputRecipe:
        """Return an output of classes or numbers that a trained head makes of a vector."""
        keys = self._tree.keys(loc)
        if "quantization" in keys:
            self._tree.note((*loc, "quantization"), f"expected no quantization with kind: {entry.kind}. Received: it.")
        if "labels" not in keys:
            self._tree.note(loc, "expected the key labels, for a head of your own. Received: none.")
        path = self._path(entry.head.weights)
        if not path.is_file():
            self._tree.note((*loc, "head", "weights"), f"expected a file. Received: {path}, which is not there.")
        labels = self._labels(loc, entry)
        found = replace(vector, quantization="none", kind=entry.kind, labels=labels, head=str(path))
        if entry.kind == "numbers":
            return replace(found, units=self._units(loc, entry, labels))
        return replace(
            found,
            activation=entry.activation or "softmax",
            temperature=entry.temperature,
            threshold=entry.threshold,
        )

    def _units(self, loc: Loc, entry: OutputEntry, labels: str | tuple[Label, ...]) -> tuple[str, ...] | None:
        """Return the unit of each number; None where none has one."""
        if "units" not in entry.model_fields_set:
            return None
        if len(entry.units) != len(labels):
            problem = f"expected a unit for each of the {len(labels)} labels. Received: {len(entry.units)}."
            self._tree.note((*loc, "units"), problem)
        return tuple(entry.units) if any(entry.units) else None

    def _tolerance(self, entry: OutputEntry) -> float | None:
        """Return the tolerance that the recipe sets, unless it is the precision's own."""
        given = [one.tolerance for one in (entry, self._entry) if "tolerance" in one.model_fields_set]
        return given[0] if given and given[0] != TOLERANCES.get(self._entry.precision) else None

    def _classes(self, loc: Loc, entry: OutputEntry) -> OutputRecipe:
        """Return an output of classes: nothing is done to what the layer gives before its activation."""
        for key in self._tree.keys(loc):
            if key in _NOT_OF_CLASSES:
                problem = (
                    f"expected no {key} with kind: classes, whose vector is what the classifier gives. Received: it."
                )
                self._tree.note((*loc, key), problem)
        return OutputRecipe(
            entry.name,
            entry.layer if "layer" in entry.model_fields_set else LAST_LAYER,
            "none",
            tolerance=self._tolerance(entry),
            kind=entry.kind,
            labels=self._labels(loc, entry),
            activation=entry.activation,
            temperature=entry.temperature,
            threshold=entry.threshold,
        )

    def _labels(self, loc: Loc, entry: OutputEntry) -> str | tuple[Label, ...]:
        """Return the labels that the recipe gives or names; ImageNet's if it says nothing about a row of the table."""
        at, given = (*loc, "labels"), entry.labels
        if "labels" not in entry.model_fields_set:
            if self._entry.backbone not in BACKBONES and "labels" not in self._tree.keys(loc):
                self._tree.note(loc, "expected the key labels, for a classifier of your own. Received: none.")
            return IMAGENET
        if len(given.model_fields_set) != 1:
            self._tree.note(at, f"expected source or names. Received: {listed(self._tree.keys(at)) or 'neither'}.")
            return IMAGENET
        if given.model_fields_set == {"source"} and given.source == IMAGENET:
            if entry.kind == "numbers":
                self._tree.note(at, "expected a list of names, or a file of them. Received: imagenet.")
            return IMAGENET
        try:
            if given.model_fields_set == {"source"}:
                return read_labels(self._path(given.source))
            return checked_labels([Label(label.name, label.id) for label in given.names])
        except ValueError as error:
            self._tree.note(at, str(error))
            return IMAGENET

    def _default_output(self) -> str:
        names = _check_names(self._tree, (*self._loc, "outputs"))
        wanted = self._entry.default_output
        if "default_output" not in self._entry.model_fields_set:
            embeddings = [output.name for output in self._entry.outputs if output.kind == "embedding"]
            joint = [JOINT] if "family" in self._entry.model_fields_set and JOINT in embeddings else []
            return (joint or embeddings or [self._entry.outputs[-1].name])[-1]
        if names and wanted not in names:
            problem = f"expected one of {', '.join(names)}. Received: {wanted!r}. {nearest(wanted, names)}"
            self._note("default_output", problem)
        return wanted

    def _calibration(self, outputs: tuple[OutputRecipe, ...]) -> Calibration | None:
        entry = self._entry.calibration
        if "calibration" not in self._entry.model_fields_set:
            given = [self._tree.value((*self._loc, "outputs", index, "name")) for index in range(len(outputs))]
            wanting = [str(name) for name, output in zip(given, outputs, strict=True) if output.needs_calibration]
            if self._entry.precision == AUTO:
                wanting.append("precision: auto")
            if wanting and "calibration" not in self._keys and self._entry.tower == "image":
                problem = f"expected calibration: FOLDER of images, for {', '.join(wanting)}. Received: none."
                self._tree.note(self._loc, problem)
            return None
        at, folder = (*self._loc, "calibration", "folder"), self._path(entry.folder)
        if not folder.is_dir():
            self._tree.note(at, f"expected a folder. Received: {folder}, which is not there.")
            return None
        files = image_files(folder, entry.images)
        if not files:
            self._tree.note(at, f"expected a folder with images. Received: {folder}, which has none.")
            return None
        try:
            return Calibration(str(folder), entry.images, images_digest(files))
        except OSError as error:
            self._tree.note(at, f"expected images that can be read. Received: {error}.")
            return None
