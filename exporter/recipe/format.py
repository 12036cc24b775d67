"""The format of recipe files as pydantic models, and the JSON schema that is derived from them.

`exporter.recipe.reading` checks what the format cannot say: whether files exist, names differ, crop and resize agree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema
from pydantic.annotated_handlers import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from exporter.recipe import resolved
from exporter.recipe.backbones import Scaling
from exporter.recipe.pooling_names import PATTERN, SPELLINGS, PoolingName
from exporter.recipe.preprocessing import COLORS, CROPS, DECODES, DEPTHS, INTERPOLATIONS, RESIZES, hex_color
from exporter.recipe.presets import PRESETS
from microtome.manifest import Activation, Tower

_TEXT = {"type": "string", "minLength": 1}
_LABEL = {
    "type": "object", "properties": {"name": _TEXT, "id": _TEXT}, "required": ["name"], "additionalProperties": False,
}  # fmt: skip
_LABEL_LIST = {"type": "array", "minItems": 1, "items": {"anyOf": [_TEXT, _LABEL]}}
_COLOR = {
    "anyOf": [
        {"type": "string", "pattern": "^#([0-9A-Fa-f]{3}|[0-9A-Fa-f]{6})$"},
        {
            "type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}, "minItems": 3, "maxItems": 3,
        },
    ]
}  # fmt: skip
_COUNT = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}


@dataclass(frozen=True)
class _Choice:
    """A string among some choices."""

    choices: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(list(self.choices))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": list(self.choices)}


@dataclass(frozen=True)
class _Shorthand:
    """A short form beside the full one: its type, its JSON schema, and the full form of a value."""

    kind: type
    schema: dict[str, Any]
    full: Callable[[Any], object]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda value: self.full(value) if type(value) is self.kind else value, handler(source)
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [self.schema, handler(core)]}


def _pooling(value: object) -> str:
    return str(PoolingName.parse(value if isinstance(value, str) else ""))


def _projection_kind(value: object) -> str | None:
    kinds = [kind for kind in ("pca", "random") if isinstance(value, dict) and kind in value]
    return kinds[0] if len(kinds) == 1 else None


def _number(value: object) -> object:
    """Read `1e-2`, which YAML 1.1 takes for text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _optional(description: str | None) -> Any:  # noqa: ANN401, as pydantic's Field
    """Return a field that is None if its key is left out; unlike `X | None`, the key cannot be given as null."""
    return Field(default=None, description=description)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""A string that is a valid directory, URL segment and graph node."""
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Version = Annotated[int, Field(ge=1, le=2**63 - 1)]
Layer = Annotated[
    Text,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    WithJsonSchema(
        {
            **_TEXT,
            "type": ["string", "integer"],
            "description": "A name, an index such as -2, or layer:call:output where a name alone would mean several.",
        }
    ),
]
Size = Annotated[list[Count], Field(min_length=2, max_length=2), _Shorthand(int, _COUNT, lambda side: [side, side])]


Tolerance = Annotated[float, Field(gt=0, le=1), BeforeValidator(_number)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PcaEntry(_Entry):
    """`{pca: 128, whiten: true}`."""

    pca: Count
    whiten: bool = Field(default_factory=bool)

    def as_projection(self) -> resolved.Projection:
        """Return the projection."""
        return resolved.Projection("pca", self.pca, whiten=self.whiten)


class RandomEntry(_Entry):
    """`{random: 128, seed: 7}`."""

    random: Count
    seed: int = Field(default_factory=int, ge=0, le=2**63 - 1)

    def as_projection(self) -> resolved.Projection:
        """Return the projection."""
        return resolved.Projection("random", self.random, seed=self.seed)


class LabelEntry(_Entry):
    """`tench` or `{name: tench, id: n01440764}`."""

    name: Text = Field(description="What answers say.")
    id: Text = _optional("Such as a WordNet id.")


class LabelsEntry(_Entry):
    """`labels: imagenet`, `labels: FILE`, or a list."""

    source: Text = _optional("imagenet, or a file with a name on each line.")
    names: Annotated[
        list[Annotated[LabelEntry, _Shorthand(str, _TEXT, lambda name: {"name": name})]], Field(min_length=1)
    ] = _optional("One for each class, in order.")


class HeadEntry(_Entry):
    """`head: {weights: head.npz}`."""

    weights: Text = Field(description="A file that microtome train wrote.")


class OutputEntry(_Entry):
    """An item of `outputs`."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["layer"]},
                {"required": ["layers"]},
                {"required": ["kind"], "properties": {"kind": {"const": "classes"}, "layer": False, "layers": False}},
            ]
        }
    )

    name: Name = Field(description="What clients ask for.")
    layer: Layer = _optional(None)
    layers: Annotated[list[Layer], Field(min_length=1)] = _optional(
        "Several, appended to one vector, each normalised first."
    )
    pooling: Annotated[str, BeforeValidator(_pooling), WithJsonSchema({"type": "string", "pattern": PATTERN})] = Field(
        "avg", description=f"One of {', '.join(SPELLINGS)}."
    )
    projection: Annotated[
        Annotated[PcaEntry, Tag("pca")] | Annotated[RandomEntry, Tag("random")], Discriminator(_projection_kind)
    ] = _optional("To so many dimensions: fitted on images, or seeded and sparse.")
    normalize: Annotated[str, _Choice(resolved.NORMALIZATIONS)] = Field("none", description="The last step.")
    quantization: Annotated[str, _Choice(resolved.QUANTIZATIONS)] = Field(
        "none", description="Whether ranges are kept for the gateway's int8 answers."
    )
    tolerance: Tolerance = _optional("Largest deviation from the golden vectors; the model's if left out.")
    kind: Annotated[str, _Choice(resolved.KINDS)] = Field(
        resolved.KINDS[0],
        description="classes: the logits of a classifier, with names; layer is its last if left out. numbers: what a "
        "trained head says of an image, such as a box.",
    )
    labels: Annotated[
        LabelsEntry,
        _Shorthand(str, _TEXT, lambda source: {"source": source}),
        _Shorthand(list, _LABEL_LIST, lambda names: {"names": names}),
    ] = _optional("Of classes and numbers: a file with a name on each line, or a list; of classes, imagenet also.")
    activation: Annotated[str, _Choice(get_args(Activation))] = _optional(
        "Of classes: turns logits into scores; the layer's own if left out, else softmax."
    )
    temperature: Annotated[float, Field(gt=0), BeforeValidator(_number)] = Field(
        1.0, description="Of classes: logits are divided by it before the activation."
    )
    threshold: Annotated[float, Field(ge=0, le=1), BeforeValidator(_number)] = _optional(
        "Of classes: an image whose best score is lower is rejected; none if left out."
    )
    units: Annotated[list[str], Field(min_length=1)] = _optional(
        "Of numbers: of each, in order, empty where it has none."
    )
    head: HeadEntry = _optional(
        "Of classes and numbers: trained layers on the vector, which give the logits or numbers."
    )


class InputEntry(_Entry):
    """The `input` of a model; the backbone's own for keys that are left out."""

    size: Size = _optional("Pixels, or [height, width] in pixels.")
    resize: Annotated[str, _Choice(RESIZES)] = _optional("squash ignores the proportions, letterbox pads.")
    shortest_side: Count = _optional("Pixels of the shorter side after resizing, before the crop.")
    interpolation: Annotated[str, _Choice(INTERPOLATIONS)] = _optional("Of the resizing.")
    crop: Annotated[str, _Choice(CROPS)] = _optional("none with squash and letterbox.")
    exif_orientation: bool = _optional("Turn photos the way the camera was held.")
    decode: Annotated[str, _Choice(DECODES)] = _optional(
        "exact: Keras' pixels, bit for bit. balanced: large JPEGs are decoded at a reduced scale. fast: the same, and "
        "resized by vector instructions."
    )
    jpeg_draft: bool = _optional("The older name: true is decode: balanced, false is decode: exact.")
    color: Annotated[str, _Choice(COLORS)] = _optional(
        "Of a model of your own, whose file says it: gray, Pillow's L, for one channel; rgba, with opacity, for four."
    )
    background: Annotated[str, BeforeValidator(hex_color), WithJsonSchema(_COLOR)] = _optional(
        "A colour to lay transparent pictures on; left out, what lies beneath full transparency shows, as in Keras."
    )
    depth: Annotated[str, _Choice(DEPTHS)] = _optional(
        "Of greys with more than 8 bits: keras makes what is above 255 white, scale scales them to 8 bits."
    )
    scaling: Annotated[str, _Choice(get_args(Scaling))] = _optional("What the graph does to pixels of 0 to 255.")


class CalibrationEntry(_Entry):
    """`calibration: FOLDER` or `calibration: {folder: FOLDER, images: 2000}`."""

    folder: Text = Field(description="Every image below it counts.")
    images: Count = Field(resolved.DEFAULT_CALIBRATION_IMAGES, description="At most so many, evenly spread.")


class ModelEntry(_Entry):
    """An item of `models`, after its preset."""

    model_config = ConfigDict(
        json_schema_extra={
            "required": ["name"],
            "anyOf": [{"required": ["backbone", "outputs"]}, {"required": ["compat"]}],
        }
    )

    name: Name = Field(description="What clients ask for, and the name of the directory.")
    backbone: Text = Field(
        description="A row of the table, FILE.keras, FILE.h5, module:function, keras_hub:PRESET; or compat."
    )
    outputs: list[OutputEntry] = Field(min_length=1, description="The embeddings and classes; or compat.")
    family: Name = _optional(
        "Of two models that are the towers of one KerasHub preset: the name that requests give for both."
    )
    tower: Annotated[str, _Choice(get_args(Tower))] = Field(
        "image", description="Of a preset for images and text: the part that is exported. text takes token ids."
    )
    weights: Text = _optional("imagenet, random, own (a model that comes with its own), or a weights file.")
    input: InputEntry = Field(
        default_factory=InputEntry, description="From an image to pixels; the backbone's own where nothing is said."
    )
    include_top: bool = _optional("Whether the classifier is there; left out: where published weights fit it.")
    precision: Annotated[str, _Choice(resolved.PRECISIONS)] = Field(
        resolved.PRECISIONS[0],
        description="Of the arithmetic; vectors are float32 in any case. auto measures on the "
        "calibration images what lower ones cost, and takes bfloat16 if the worst cosine with float32 is 0.9999 or "
        "more.",
    )
    tolerance: Tolerance = _optional(
        "Largest deviation from the golden vectors with which a server may serve it, as a relative L2 difference: 1e-4 "
        "for float32, 1e-2 for float16, 6e-2 for bfloat16 if left out. 1e-2 allows TF32 on GPUs."
    )
    default_output: Name = _optional("For requests that name none; the last embedding if left out.")
    max_batch_size: Count = Field(
        resolved.DEFAULT_MAX_BATCH_SIZE, description="The largest batch that a model server runs."
    )
    version: Version = _optional("The next free one if left out.")
    calibration: Annotated[CalibrationEntry, _Shorthand(str, _TEXT, lambda folder: {"folder": folder})] = _optional(
        "A folder of images like those to come, for pca and int8."
    )
    compat: Annotated[str, _Choice(tuple(PRESETS))] = _optional(
        "All that makes vectors equal those of another system. Nothing beside it may say otherwise."
    )


class RecipeEntry(_Entry):
    """A recipe file."""

    models: list[ModelEntry] = Field(min_length=1)


ENTRIES: dict[tuple[str | int, ...], type[BaseModel]] = {
    (): RecipeEntry,
    ("models",): ModelEntry,
    ("models", "input"): InputEntry,
    ("models", "outputs"): OutputEntry,
    ("models", "outputs", "labels"): LabelsEntry,
    ("models", "outputs", "labels", "names"): LabelEntry,
    ("models", "outputs", "head"): HeadEntry,
    ("models", "outputs", "projection", "pca"): PcaEntry,
    ("models", "outputs", "projection", "random"): RandomEntry,
    ("models", "calibration"): CalibrationEntry,
}
"""The model of each mapping, by the keys above it."""


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of recipe files, draft 2020-12, without references."""
    schema = RecipeEntry.model_json_schema()
    definitions = {name: {**found, "description": None} for name, found in schema.pop("$defs").items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_inlined({**schema, "description": None}, definitions),
        "title": "Microtome recipe",
    }


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:  # noqa: ANN401, JSON
    """Replace references, and drop titles, defaults of None and the descriptions of classes."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = {**definitions[node["$ref"].rpartition("/")[2]], **node}
    if node.get("type") == "object":
        node = {"required": [], **node}
    dropped = ("$ref", "title", "discriminator")
    return {k: _inlined(v, definitions) for k, v in node.items() if k not in dropped and v is not None}
