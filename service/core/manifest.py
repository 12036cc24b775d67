"""A model's manifest as types. The contract is protos/microtome/manifest/v1/manifest.schema.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

Resize = Literal["shortest-side", "squash", "letterbox"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How an image becomes the uint8 [height, width, 3] pixels that the model takes.

    Attributes:
        shortest_side: pixels of the shorter side after resizing; None unless `resize` is "shortest-side".
        jpeg_draft: True lets libjpeg decode at a reduced scale; False means bit-equal to `keras.utils.load_img`.
    """

    height: int
    width: int
    color: Literal["rgb"]
    resize: Resize
    shortest_side: int | None
    interpolation: Interpolation
    crop: Literal["center", "none"]
    exif_orientation: bool
    jpeg_draft: bool


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """One named embedding of a model; `shape` is that of one image, without the batch dimension."""

    name: str
    layer: str
    pooling: str
    projection: dict[str, Any] | None
    shape: tuple[int, ...]
    dtype: Literal["float32"]
    params: int
    flops: int | None
    quantization: dict[str, Any] | None

    @property
    def dim(self) -> int:
        """Numbers in the vector: the product of the shape."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Backbone:
    """Which network, with which weights, from where."""

    name: str
    weights: str
    source: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model's own description, as its SavedModel's `manifest` signature returns it."""

    schema: Literal[1]
    model: str
    fingerprint: str
    backbone: Backbone
    input: InputSpec
    outputs: tuple[OutputSpec, ...]
    default_output: str
    max_batch_size: int
    created: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One version of one model that is being served now."""

    name: str
    version: int
    manifest: Manifest
    outputs: Mapping[str, OutputSpec] = field(init=False, repr=False, compare=False)
    """By name, in the manifest's order; kept, since each request asks for it several times."""

    def __post_init__(self) -> None:
        """Name the outputs."""
        object.__setattr__(self, "outputs", {output.name: output for output in self.manifest.outputs})
