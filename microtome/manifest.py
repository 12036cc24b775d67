"""A model's description of itself, as types. The contract is protos/microtome/manifest/v2/manifest.schema.json.

Version 1, its neighbour, has neither golden vectors nor tolerances, and is read for ever.

The exporter writes it into the SavedModel, the model server returns it, and the gateway and bulk embedding read it.
"""

from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from math import prod
from typing import Any, Literal

Resize = Literal["shortest-side", "squash", "letterbox"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Crop = Literal["center", "none"]
Decode = Literal["exact", "balanced", "fast"]
Color = Literal["gray", "rgb", "rgba"]
Depth = Literal["keras", "scale"]
Kind = Literal["embedding", "map", "classes", "numbers"]
Activation = Literal["softmax", "sigmoid"]
Tower = Literal["image", "text"]

CHANNELS: Mapping[Color, int] = {"gray": 1, "rgb": 3, "rgba": 4}
"""Of an image, by its colour."""

TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 6e-2}
"""Largest deviation from golden vectors, relative L2, by the graph's arithmetic, unless a recipe says otherwise."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How an image becomes the uint8 [height, width, channels] pixels that the model takes.

    Attributes:
        height: pixels.
        width: pixels.
        shortest_side: pixels of the shorter side after resizing; None unless `resize` is "shortest-side".
        exif_orientation: whether the image is turned upright as its EXIF data says.
        decode: exact is bit-equal to `keras.utils.load_img`; balanced lets libjpeg decode at a reduced scale; fast also
            resizes by vector instructions, within a grey level of balanced.
        color: Its channels: one of luminance, as Pillow's `L`; three of RGB; or RGB and opacity, 255 where opaque.
        background: colour that transparent pictures are laid on, `#rrggbb`; None shows what lies beneath, as Keras.
        depth: "scale" scales greys of more than 8 bits to 8; "keras" clips what is above 255 to white.
        jpeg_draft: what there was before `decode`: True was balanced, and False exact. Not kept.
        kind: tells it from `TokensSpec`; absent in older manifests.
    """

    height: int
    width: int
    resize: Resize
    shortest_side: int | None
    interpolation: Interpolation
    crop: Crop
    exif_orientation: bool
    decode: Decode = "balanced"
    color: Color = "rgb"
    background: str | None = None
    depth: Depth = "keras"
    jpeg_draft: InitVar[bool | None] = None
    kind: Literal["image"] = "image"

    def __post_init__(self, jpeg_draft: bool | None) -> None:
        """Read the field of older manifests."""
        if jpeg_draft is False and self.decode == "balanced":
            object.__setattr__(self, "decode", "exact")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.height, self.width, CHANNELS[self.color]


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """A text tower's tokenizer: a JSON file of the library `tokenizers`, gzip-compressed.

    It is in the SavedModel as `assets.extra/tokenizer.json.gz`, and the signature `tokenizer` answers with it in parts
    that fit into gRPC messages: input `query`, int32 [N], numbers of parts from 0; output `tokenizer`, string [N].

    Attributes:
        sha256: of the JSON, hexadecimal; it is part of the fingerprint.
        size: bytes of the JSON, before compression.
        parts: how many the compressed file has.
    """

    sha256: str
    size: int
    parts: int


@dataclass(frozen=True, slots=True)
class TokensSpec:
    """How a text becomes the int32 [length] token ids that a text tower takes.

    The tokenizer normalises, splits and adds the tokens for begin and end. Lower case, length and padding are not in
    its file but here.

    Attributes:
        length: tokens, those for begin and end included; longer texts are cut so that the last token stays.
        vocabulary: number of token ids.
        pad: the id that fills up shorter texts, at their end.
        lowercase: whether the text is written in lower case first.
        tokenizer: where it is.
        kind: tells it from `InputSpec`.
    """

    length: int
    vocabulary: int
    pad: int
    lowercase: bool
    tokenizer: TokenizerSpec
    kind: Literal["tokens"] = "tokens"

    @property
    def shape(self) -> tuple[int]:
        """The length: of one text's ids, without the batch dimension."""
        return (self.length,)


@dataclass(frozen=True, slots=True)
class Label:
    """The name of a class, and its id where it has one, such as ImageNet's `n01440764`."""

    name: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """One named output of a model: an embedding, the logits of classes, or numbers that mean something each.

    Attributes:
        layer: name; several are joined by ` + `.
        shape: of one image, without the batch dimension.
        params: weights that this output needs.
        flops: floating-point operations for one image, a multiply-add counted as two; None when not known.
        quantization: range of each dimension for int8 answers; None without calibration.
        normalize: the graph's last step.
        tolerance: largest deviation from the golden vectors, relative L2; None in version 1.
        kind: None in manifests from before there were kinds.
        labels: of classes and numbers, one for each number of the vector; those of classes are logits.
        activation: of classes: turns logits into scores.
        temperature: of classes: logits are divided by it before the activation.
        threshold: of classes: an image whose best score is lower is rejected; None rejects none.
        units: of numbers, one for each, empty where it has none; None where none has one.
    """

    name: str
    layer: str
    pooling: str
    projection: dict[str, Any] | None
    shape: tuple[int, ...]
    dtype: Literal["float32"]
    params: int
    flops: int | None
    quantization: dict[str, Any] | None
    normalize: Literal["none", "l2"] = "none"
    tolerance: float | None = None
    kind: Kind | None = None
    labels: tuple[Label, ...] | None = None
    activation: Activation | None = None
    temperature: float | None = None
    threshold: float | None = None
    units: tuple[str, ...] | None = None

    @property
    def dim(self) -> int:
        """Numbers in the vector: the product of the shape."""
        return prod(self.shape)

    @property
    def classes(self) -> tuple[Label, ...]:
        """The labels of an output of classes; none of any other, such as one of numbers, whose labels are names."""
        return () if self.kind == "numbers" else self.labels or ()


@dataclass(frozen=True, slots=True)
class Backbone:
    """Name, weights and origin of the network."""

    name: str
    weights: str
    source: str


@dataclass(frozen=True, slots=True)
class GoldenVector:
    """What is recorded of one golden vector; see `microtome.golden`.

    Attributes:
        head: its first numbers.
        norm: its length.
        probes: its products with fixed vectors of signs.
    """

    head: tuple[float, ...]
    norm: float
    probes: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Golden:
    """What each output is for a few synthetic images, by the framework that the model came from.

    Attributes:
        seed: of the images.
        inputs: how many of them.
        vectors: by output, one for each image.
    """

    seed: int
    inputs: int
    vectors: dict[str, tuple[GoldenVector, ...]]


@dataclass(frozen=True, slots=True)
class Similarity:
    """What a model of images and text makes of the cosine of an image and a text.

    Attributes:
        scale: the logit is the cosine times this,
        bias: plus this.
        activation: from the logits of one image and several texts to scores: over all, or of each alone.
    """

    scale: float
    bias: float
    activation: Activation


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model's own description, as its SavedModel's `manifest` signature returns it.

    The towers of a model of images and text are two models of one `family`. Vectors of both can be compared where
    their `space` is equal.

    Attributes:
        family: the name that requests give for both towers; None for a model of its own.
        tower: which of the family's inputs it takes.
        space: "sha256:" and 64 hexadecimal digits over both towers' weights and preprocessing; None without family.
        similarity: of the family, as it was trained; None where the model does not say.
        precision: the graph's arithmetic and what it costs, for people; vectors are float32 in any case.
    """

    schema: Literal[1, 2]
    model: str
    fingerprint: str
    backbone: Backbone
    input: InputSpec | TokensSpec
    outputs: tuple[OutputSpec, ...]
    default_output: str
    max_batch_size: int
    created: str
    versions: dict[str, str]
    precision: dict[str, Any] | None = None
    golden: Golden | None = None
    family: str | None = None
    tower: Tower = "image"
    space: str | None = None
    similarity: Similarity | None = None

    @property
    def pixels(self) -> InputSpec:
        """The input of a model of images.

        Raises:
            ValueError: it is a text tower.
        """
        if isinstance(self.input, InputSpec):
            return self.input
        raise ValueError(f"Expected a model of images. Received: {self.model}, which takes text.")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One served version of a model."""

    name: str
    version: int
    manifest: Manifest
    outputs: Mapping[str, OutputSpec] = field(init=False, repr=False, compare=False)
    """By name, in the manifest's order; kept, since each request reads it several times."""
    tokenizer: Callable[[str], Any] | None = field(default=None, repr=False, compare=False)
    """Of a text tower that is served: turns a text into its token ids, int32 [length]."""

    def __post_init__(self) -> None:
        """Index the outputs by name."""
        object.__setattr__(self, "outputs", {output.name: output for output in self.manifest.outputs})
