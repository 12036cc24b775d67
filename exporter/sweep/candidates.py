"""The candidates of a sweep: every cut point of a backbone in every pooling, and pairs of layers."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import keras

from exporter.errors import ImpossibleOption, ImpossiblePooling, nearest
from exporter.graph.cut_points import CutPoint, cut_points, default_cut
from exporter.graph.tensors import find_tensor
from exporter.head.pooling import pooled_output_shape
from exporter.head.slicing import MOST_DIMENSIONS, Slice, SliceOutput, as_pooled
from exporter.models.building import Built
from exporter.recipe.pooling_names import PoolingName
from exporter.recipe.resolved import OutputRecipe, Projection
from microtome.manifest import InputSpec

POOLINGS = ("avg", "max", "gem(3)", "flatten", "spp(1,2,4)")
PROJECTED = 512
"""Dimensions that `flatten` and `spp` are projected to."""

_LONG = ("flatten", "spp")
_STAGES = 4
_NAME = 64


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way from a photo to a vector.

    Attributes:
        variant: Index of its backbone and preprocessing.
        output: As in a recipe.
        dimension: Length of its vector.
        flops: Operations up to its deepest layer, for one image; None if unknown.
        params: Weights up to there.
        depth: Place of its deepest layer among the cut points, from 0 to 1.
        default: Whether it is the usual cut, average pooled.
    """

    variant: int
    output: OutputRecipe
    dimension: int
    flops: int | None
    params: int
    depth: float
    default: bool = False

    @property
    def cost(self) -> tuple[float, int, int]:
        """What cheaper means: fewer operations, then fewer bytes of a vector, then fewer weights."""
        return (math.inf if self.flops is None else self.flops, self.dimension, self.params)


@dataclass(frozen=True, slots=True)
class Cuts:
    """A backbone cut at all of its candidates.

    Attributes:
        slice_: Has an output for each candidate.
        depths: Place of each output's deepest layer, from 0 to 1, by output name.
        usual: Name of the output that is the default.
    """

    slice_: Slice
    depths: dict[str, float]
    usual: str

    def candidates(self, variant: int) -> list[Candidate]:
        """Return the candidates, for one preprocessing."""
        return [
            Candidate(
                variant,
                output.recipe,
                math.prod(output.shape),
                output.flops,
                output.params,
                self.depths[output.recipe.name],
                output.recipe.name == self.usual,
            )
            for output in self.slice_.outputs
        ]


def parse_poolings(text: str) -> tuple[str, ...]:
    """Parse `avg,gem(3),spp(1,2,4)`, whose parentheses may hold commas.

    Raises:
        ImpossibleOption: One of them is not a pooling.
    """
    found = []
    for word in re.findall(r"[^,(]+(?:\([^)]*\))?", text):
        try:
            found.append(str(PoolingName.parse(word.strip())))
        except ValueError:
            kinds = [name.partition("(")[0] for name in (*POOLINGS, "cls")]
            raise ImpossibleOption(
                f"Expected --pooling with some of {', '.join((*POOLINGS, 'cls'))}. Received: {word.strip()!r}. "
                f"{nearest(word, kinds)}"
            ) from None
    if not found or "none" in found:
        raise ImpossibleOption(f"Expected --pooling with some of {', '.join(POOLINGS)}. Received: {text!r}.")
    return tuple(dict.fromkeys(found))


def cuts(built: Built, pixels: InputSpec, poolings: Sequence[str], layers: Sequence[str]) -> Cuts:
    """Cut a backbone at all of its candidates.

    Args:
        built: The backbone.
        pixels: Its input; only the size matters.
        poolings: In the notation of `exporter.recipe.pooling_names`; those that do not fit a layer are left out.
        layers: Names of the only layers to try; empty for all where blocks end.

    Raises:
        ImpossibleOption: No layer fits, or one of the named layers is not a cut point.
    """
    every = cut_points(built.model)
    usual = default_cut(every)
    points = _chosen(every, usual, layers)
    found = {point.ref: find_tensor(built.model, point.ref) for point in points}
    tensors: dict[str, keras.KerasTensor] = {}
    by_ref = {point.ref: point for point in points}
    names: set[str] = set()
    outputs, depths = [], {}
    for output in _outputs(points, usual, poolings, pairs=not layers):
        parts = [by_ref[layer] for layer in output.layers]
        try:
            ends = [as_pooled(built.model, output, found[layer]) for layer in output.layers]
            shapes = tuple(tuple(end.shape) for end in ends)
            pooled = pooled_output_shape(output, shapes)
        except ImpossiblePooling:
            continue
        fitted = _fitted(output, math.prod(pooled))
        if fitted is None:
            continue
        named = _named(fitted, parts, names)
        deepest = max(parts, key=points.index)
        flops = None if any(part.flops is None for part in parts) else max(part.flops or 0 for part in parts)
        tensors |= dict(zip(named.cuts, ends, strict=True))
        outputs.append(SliceOutput(named, shapes, pooled, max(part.params for part in parts), flops))
        depths[named.name] = points.index(deepest) / max(len(points) - 1, 1)
    wanted = usual.ref if usual is not None else points[-1].ref
    own = [output.recipe for output in outputs if output.recipe.layers == (wanted,)]
    if not own:
        raise ImpossibleOption(
            f"Expected a --pooling that fits {wanted} of {built.row.name}. Received: {', '.join(poolings)}."
        )
    default = next((one for one in own if one.pooling == "avg"), own[0])
    model = keras.Model(built.model.input, tensors)
    return Cuts(Slice(built, model, tuple(outputs), pixels), depths, default.name)


def _chosen(every: Sequence[CutPoint], usual: CutPoint | None, layers: Sequence[str]) -> list[CutPoint]:
    refs = {point.ref for point in every}
    # A layer of a model within the model may go by its own name, where only one has it.
    ends = {layer: [ref for ref in refs if ref == layer or ref.endswith(f"/{layer}")] for layer in layers}
    layers = [ends[layer][0] if len(ends[layer]) == 1 else layer for layer in layers]
    for layer in layers:
        if layer not in refs:
            raise ImpossibleOption(f"Expected --layers that can be cut at. Received: {layer!r}. {nearest(layer, refs)}")
    points = [
        point
        for point in every
        # A global average is the average of the layer before it.
        if (point.ref in layers if layers else point.block_end and not point.kind.startswith("Global"))
        or (usual is not None and point.ref == usual.ref)
    ]
    return [point for point in points if all(side is not None for side in point.shape[1:]) and len(point.shape) > 1]


def _outputs(
    points: Sequence[CutPoint], usual: CutPoint | None, poolings: Sequence[str], *, pairs: bool
) -> Iterator[OutputRecipe]:
    for point in points:
        if len(point.shape) == 2:
            yield OutputRecipe("", point.ref, "none")
            continue
        for pooling in (*poolings, "cls") if len(point.shape) == 3 and "cls" not in poolings else poolings:
            yield OutputRecipe("", point.ref, pooling)
        if usual is not None and point.ref == usual.ref and "avg" not in poolings:
            yield OutputRecipe("", point.ref, "avg")
    if pairs:
        for first, second in itertools.combinations(_stages(points), 2):
            yield OutputRecipe("", first.ref, "avg", (second.ref,))


def _stages(points: Sequence[CutPoint]) -> list[CutPoint]:
    """Return the last cut of each of the last stages, or four evenly spread cuts of a network of one stage."""
    maps = [point for point in points if len(point.shape) > 2]
    ends = list({point.shape[1:-1]: point for point in maps}.values())[-_STAGES:]
    if len(ends) > 2:
        return ends
    return [maps[(index + 1) * len(maps) // _STAGES - 1] for index in range(_STAGES)] if len(maps) >= _STAGES else []


def _fitted(output: OutputRecipe, width: int) -> OutputRecipe | None:
    """Project long vectors; None for those that are too long for that."""
    if PoolingName.parse(output.pooling).kind not in _LONG:
        return output
    if width > MOST_DIMENSIONS:
        return None
    projection = Projection("random", PROJECTED) if width > PROJECTED else None
    return replace(output, projection=projection)


def _named(output: OutputRecipe, parts: Sequence[CutPoint], names: set[str]) -> OutputRecipe:
    """Name an output by its layers and its pooling, within what recipes allow."""
    ending = "" if output.pooling == "none" else f"-{re.sub(r'[^a-z0-9]', '', output.pooling.partition(',')[0])}"
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", ".".join(part.ref for part in parts)).lstrip("_.-") + ending
    if len(plain) > _NAME and all(part.index is None for part in parts):
        plain = plain[-_NAME:].lstrip("_.-")
    elif len(plain) > _NAME or plain in names:
        plain = f"cut{'.'.join(str(part.index) for part in parts)}{ending}"
    while plain in names:
        plain += "x"
    names.add(plain)
    return replace(output, name=plain)
