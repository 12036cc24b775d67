"""Build a recipe's backbone and cut it at the layers that the recipe names."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

import keras

from exporter.errors import CutError, ImpossibleClasses, ImpossibleHead, ImpossiblePooling
from exporter.graph.cost import count_flops, count_params
from exporter.graph.network import Call, Network, functional, place, prefix_tokens
from exporter.graph.tensors import find_tensor
from exporter.head.dense import DenseHead, read_head
from exporter.head.pooling import pooled_output_shape
from exporter.models.building import Built, build
from exporter.recipe.backbones import Backbone, Scaling, find_backbone
from exporter.recipe.labels import labels_of
from exporter.recipe.pooling_names import PoolingName
from exporter.recipe.resolved import IMAGENET, LAST_LAYER, ModelRecipe, OutputRecipe
from exporter.runtime.memory import available, estimated
from exporter.runtime.terminal import stage, warn
from microtome.manifest import Activation, InputSpec, TokensSpec

MOST_DIMENSIONS = 16_384
"""Longer vectors are allowed, with a warning."""


@dataclass(frozen=True, slots=True)
class SliceOutput:
    """One output of a slice.

    Attributes:
        recipe: The output's recipe.
        layer_shapes: Shapes of the layers' tensors, batch first.
        pooled: Shape of one image's features after pooling, before projection.
        params: Weights that this output needs.
        flops: Operations that this output needs for one image; None if unknown.
        head: Trained layers on the embedding, if the recipe names some.
    """

    recipe: OutputRecipe
    layer_shapes: tuple[tuple[int | None, ...], ...]
    pooled: tuple[int, ...]
    params: int
    flops: int | None
    head: DenseHead | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image's answer: its embedding, or its logits."""
        if self.head is not None:
            return (self.head.classes,)
        return (self.recipe.projection.dim,) if self.recipe.projection else self.pooled


@dataclass(frozen=True, slots=True)
class Slice:
    """A backbone up to its deepest cut.

    Attributes:
        built: The whole backbone.
        model: From the backbone's input to the cut layers' tensors by layer, before pooling.
        outputs: In the order of the recipe.
        input: The preprocessing of its images, or how a text becomes token ids.
    """

    built: Built
    model: keras.Model
    outputs: tuple[SliceOutput, ...]
    input: InputSpec | TokensSpec


def prepare(recipe: ModelRecipe) -> Slice:
    """Build the backbone of a recipe and cut it.

    Raises:
        ExporterError: It cannot be built or cut as the recipe says.
    """
    keras.utils.clear_session()  # frees the model before this one
    row = find_backbone(recipe.backbone, recipe.weights)
    if recipe.scaling is not None:
        row = replace(row, scaling=cast("Scaling", recipe.scaling))
    with stage(f"{recipe.name}: building {recipe.backbone} with {recipe.weights} weights"):
        top = recipe.include_top if needs_top(row, recipe) else False
        keras.utils.clear_session()  # restarts the numbering of unnamed layers
        shared = recipe.family is not None
        return cut(build(row, recipe.weights, recipe.input, include_top=top, shared=shared), recipe)


def needs_top(row: Backbone, recipe: ModelRecipe) -> bool:
    """Whether the recipe decides on the classifier, or an output needs it: most of the file, and all for nothing else.

    Published weights are two files, with the classifier and without. Layers have the same names in both models. Those
    of a negative index have not.
    """
    if recipe.include_top is not None or recipe.weights != IMAGENET or row.module is None:
        return True
    if any(layer.startswith("-") for output in recipe.outputs for layer in output.layers):
        return True
    model = build(row, None, recipe.input, include_top=False).model
    try:
        for output in recipe.outputs:
            find_output(model, output)
    except CutError:
        return True
    return False


def cut(built: Built, recipe: ModelRecipe) -> Slice:
    """Cut a backbone at the layers of a recipe.

    Raises:
        CutError: A layer is unknown or ambiguous, or cannot be pooled as the recipe says; names every such problem.
    """
    tensors: dict[str, keras.KerasTensor] = {}
    outputs, errors = [], []
    for output in recipe.outputs:
        try:
            found, shapes, pooled = find_output(built.model, output)
        except CutError as error:
            errors.append(error)
            continue
        alone = keras.Model(built.model.input, found)
        output = _with_activation(built.model, output)  # noqa: PLW2901, the rest of it is the same
        tensors |= dict(zip(output.cuts, found, strict=True))
        params, flops = count_params(alone), count_flops(alone)
        head = None
        if output.head is not None:
            head = read_head(Path(output.head))
            params, flops = params + head.params, None if flops is None else flops + head.flops
        outputs.append(SliceOutput(output, shapes, pooled, params, flops, head))
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise CutError("\n".join(dict.fromkeys(str(error) for error in errors)))
    return Slice(built, keras.Model(built.model.input, tensors), tuple(outputs), recipe.input)


def find_output(
    model: keras.Model, output: OutputRecipe
) -> tuple[list[keras.KerasTensor], tuple[tuple[int | None, ...], ...], tuple[int, ...]]:
    """Return the tensors of an output's layers, their shapes, and the shape of one image's features after pooling.

    Raises:
        CutError: A layer is unknown or ambiguous, or cannot be pooled as the recipe says.
    """
    if output.of_classifier:
        return _find_logits(model, output)
    found = [as_pooled(model, output, find_tensor(model, layer)) for layer in output.layers]
    shapes = tuple(tuple(tensor.shape) for tensor in found)
    pooled = pooled_output_shape(output, shapes)
    if output.head is not None:
        _check_head(output, pooled)
    return found, shapes, pooled


def as_pooled(model: keras.Model, output: OutputRecipe, tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Return a tensor as its pooling takes it: the tokens of a transformer's patches are a map [N, H, W, C].

    In a text tower, `cls` takes the token whose vector the network itself takes: [N, 1, C].

    Raises:
        ImpossiblePooling: The pooling is of a class token, and there is none.
    """
    prefix = prefix_tokens(model)
    if prefix is None or len(tensor.shape) != 3 or tensor.shape[1] is None:
        return tensor
    pooling = PoolingName.parse(output.pooling)
    ids = functional(model).inputs[0]
    if len(ids.shape) == 2:
        return _own_token(model, ids, tensor) if pooling.kind == "cls" else tensor
    if pooling.kind == "cls" and prefix == 0:
        raise ImpossiblePooling(
            f"Expected a network with a class token for pooling: cls of the output {output.name}. Received: "
            f"{output.layer} of {model.name}, which has tokens of patches only. Say pooling: avg."
        )
    (_, height, width, _), patches = functional(model).inputs[0].shape, tensor.shape[1] - prefix
    rows = math.isqrt(max(patches * height // width, 0))
    if not pooling.of_patches or rows == 0 or patches % rows or patches * height != rows * rows * width:
        return tensor
    if prefix:
        tensor = keras.layers.Cropping1D((prefix, 0))(tensor)
    return keras.layers.Reshape((rows, patches // rows, tensor.shape[2]))(tensor)


def _own_token(model: keras.Model, ids: keras.KerasTensor, tokens: keras.KerasTensor) -> keras.KerasTensor:
    """Return the token that a text tower's own pooling takes: CLIP's ends the text, SigLIP's is the last place."""
    for call in Network(model).calls:
        if call.kind == "CLIPTextPooler":
            return keras.layers.Reshape((1, tokens.shape[2]))(type(call.layer)()(tokens, ids))
    return keras.layers.Cropping1D((tokens.shape[1] - 1, 0))(tokens)


def _check_head(output: OutputRecipe, pooled: tuple[int, ...]) -> None:
    head, labels = read_head(Path(str(output.head))), labels_of(output)
    shape = (output.projection.dim,) if output.projection is not None else pooled
    if shape != (head.dimension,):
        raise ImpossibleHead(
            f"Expected a head for vectors of shape {shape} for the output {output.name}. Received: one for "
            f"{head.dimension} numbers. Train it on this layer and pooling."
        )
    if len(labels) != head.classes:
        raise ImpossibleHead(
            f"Expected {head.classes} labels for the output {output.name}, as its head has. Received: {len(labels)}."
        )


def _find_logits(
    model: keras.Model, output: OutputRecipe
) -> tuple[list[keras.KerasTensor], tuple[tuple[int | None, ...], ...], tuple[int, ...]]:
    """Return what a layer gives before its softmax or sigmoid, as `find_output` does."""
    call = _call(model, output.layer)
    shape, labels = tuple(call.outputs[0].shape), labels_of(output)
    if len(shape) != 2 or shape[1] is None:
        raise ImpossibleClasses(
            f"Expected a layer of shape (None, number of classes) for the output {output.name}. "
            f"Received: {place(call.layer)} of {shape}. Say layer: NAME; microtome layers lists them."
        )
    if len(labels) != shape[1]:
        raise ImpossibleClasses(
            f"Expected {shape[1]} labels for the output {output.name}, as {place(call.layer)} has. "
            f"Received: {len(labels)}{' of ImageNet' if output.labels == IMAGENET else ''}."
        )
    logits = call.outputs[0]
    if _activation(call) is not None:
        if not getattr(call.layer, "weights", ()):  # an activation of its own, after the layer with the weights
            (logits,) = call.inputs
        else:
            config = {**call.layer.get_config(), "activation": "linear", "name": f"{call.layer.name}_logits"}
            linear = call.layer.__class__.from_config(config)
            logits = linear(*call.inputs)
            linear.set_weights(call.layer.get_weights())
    return [logits], (shape,), (int(shape[1]),)


def _with_activation(model: keras.Model, output: OutputRecipe) -> OutputRecipe:
    """Return an output of classes with its layer's name, and the layer's activation where the recipe says none."""
    if not output.of_classifier:
        return output
    call = _call(model, output.layer)
    activation = output.activation or _activation(call) or "softmax"
    layer = place(call.layer) if output.layer == LAST_LAYER else output.layer
    return replace(output, layer=layer, activation=activation)


def _call(model: keras.Model, ref: str) -> Call:
    """Return the call that gives the tensor which a recipe names, or the network's own output for the last layer."""
    wanted = functional(model).outputs[0] if ref == LAST_LAYER else find_tensor(model, ref)
    return next(call for call in Network(model).calls if any(tensor is wanted for tensor in call.outputs))


def _activation(call: Call) -> str | None:
    """Return `softmax` or `sigmoid` if that is the last thing that a call does; one of `keras.ops` does only that."""
    name = getattr(getattr(call.layer, "activation", None), "__name__", call.kind.lower())
    return name if name in get_args(Activation) else None


def warn_of_long_vectors(slice_: Slice) -> None:
    """Warn of outputs that are too long to store and compare, with shorter alternatives."""
    for output in slice_.outputs:
        size = math.prod(output.shape)
        if size > MOST_DIMENSIONS and output.recipe.pooling != "none":
            warn(
                f"the output {output.recipe.name} has {size:,} dimensions: {4 * size / 1e6:.1f} MB for every image. "
                "Say pooling: avg (or gem, or max), cut deeper, or add projection: {pca: 256}."
            )


def warn_of_memory(slice_: Slice) -> None:
    """Warn if the machine has less memory available than the export takes at least."""
    needed = estimated(count_params(slice_.built.model), count_params(slice_.model))
    free = available()
    if free is not None and free < needed:
        warn(
            f"exporting {slice_.built.row.name} takes {needed / 1e9:.1f} GB of memory or more, where "
            f"{free / 1e9:.1f} GB can be had: the system may end it. Close what you can, or export "
            "on a larger machine."
        )
