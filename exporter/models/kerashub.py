"""KerasHub's vision backbones as flat networks, in which every block, attention and MLP is a call of its own.

KerasHub keeps all blocks of a ViT or DINO in one layer, and a CLIP or SigLIP with both of its towers in one model. A
layer that only calls other layers is opened here: its `call` runs on symbolic tensors, which leaves a call of each.
"""

import hashlib
import importlib
import inspect
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.backend import compute_output_spec

from exporter.errors import ImpossibleInput, ImpossibleModel, first_line
from exporter.graph.network import Call, Network, put_prefix_tokens
from exporter.recipe.own_backbones import PresetInput, preset_input, preset_unavailable
from exporter.recipe.preprocessing import identity
from exporter.recipe.preset_tokens import preset_tokens
from microtome.manifest import Similarity, TokensSpec

_NOTHING = ("Dropout", "Identity")
_CLASS_TOKENS = {
    "CLIPVisionEncoder": 1, "DINOV2Backbone": 1, "DINOV3Backbone": 1, "SigLIPVisionEncoder": 0,
    "SwinTransformerBackbone": 0, "ViTBackbone": 1,
}  # fmt: skip
"""By class of backbone; one that is not here pools all of its tokens."""


def load(
    preset: str, wanted: tuple[int, int] | TokensSpec | None, *, shared: bool = False
) -> "tuple[keras.Model, Space | None]":
    """Return a preset's backbone, or a tower of one that has two, with the preset's own scaling of pixels.

    Args:
        preset: A name that KerasHub knows, a handle such as `kaggle://…` or `hf://…`, or a directory.
        wanted: Height and width of the images in pixels; None for the preset's own. The tokens of its text tower.
        shared: Whether to say in which space both of its towers meet.

    Returns:
        The model, and that space.

    Raises:
        ImpossibleModel: KerasHub is not installed, or the preset is unknown, not to be had, or no vision backbone.
        ImpossibleInput: The preset cannot take images of this size.
    """
    try:
        keras_hub = importlib.import_module("keras_hub")
    except ImportError as error:
        raise ImpossibleModel(
            f"Expected the package keras-hub for the preset {preset}. Received: it is not installed. Run pip install "
            "keras-hub."
        ) from error
    try:
        model = _backbone(keras_hub, preset)
    except Exception as error:  # unknown, not downloadable, or not a backbone
        raise ImpossibleModel(preset_unavailable(preset, error)) from error
    space = Space(_identity(model, preset), _similarity(model)) if shared else None
    if isinstance(wanted, TokensSpec):
        tower = text_tower(model)
        put_prefix_tokens(tower, 0)
        return tower, space
    own = tuple(_images(model).shape[1:3])
    if wanted is not None and own != wanted:
        model = _of_size(keras_hub, preset, wanted, own)
    tower = image_tower(model)
    if (found := preset_input(preset)) is not None and (found.scale, found.offset) != (1.0, 0.0):
        tower = _scaled(tower, found)
    put_prefix_tokens(tower, _prefix_tokens(getattr(model, "vision_encoder", model)))
    return tower, space


@dataclass(frozen=True, slots=True)
class Space:
    """Where the towers of a preset meet.

    Attributes:
        identity: Equal for both towers of the same weights, and for no others.
        similarity: What the preset makes of cosines.
    """

    identity: str
    similarity: Similarity | None


def _similarity(model: keras.Model) -> Similarity | None:
    head = getattr(model, "clip_head", None) or getattr(model, "siglip_head", None)
    if head is None:
        return None
    bias = getattr(head, "logit_bias", None)
    scale = float(np.exp(np.asarray(head.logit_scale, np.float64)))
    return Similarity(scale, 0.0 if bias is None else float(bias), "softmax" if bias is None else "sigmoid")


def _identity(model: keras.Model, preset: str) -> str:
    """Return a digest of all weights, of how images are prepared, and of how texts become token ids."""
    weights = hashlib.sha256()
    for weight in model.weights:
        values = np.ascontiguousarray(weight)
        weights.update(f"{values.dtype}{values.shape}".encode())
        weights.update(values.view(np.uint8).data)
    images = preset_input(preset)
    parts = {
        "weights": weights.hexdigest(),
        "images": images and [identity(images.pixels), images.scale, images.offset],
        "text": identity(preset_tokens(preset).spec),
    }
    return f"sha256:{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}"


def _prefix_tokens(encoder: keras.Model) -> int | None:
    found = _CLASS_TOKENS.get(type(encoder).__name__)
    if found is None:
        return None
    return int(found * getattr(encoder, "use_class_token", True)) + int(getattr(encoder, "num_register_tokens", 0))


def _scaled(tower: keras.Model, wanted: PresetInput) -> keras.Model:
    """Return the tower behind the preset's own scaling of pixels, as its last layer before the embedding."""
    (own,) = tower.inputs
    images = keras.Input(own.shape[1:], name=own.name)
    start = keras.layers.Rescaling(wanted.scale, wanted.offset, name="scaling")(images)
    tensors = {id(own): start}
    for call in Network(tower).calls:
        if call.inputs:
            tensors |= dict(zip(map(id, call.outputs), call.again(tensors), strict=True))
    return keras.Model(images, [tensors[id(tensor)] for tensor in tower.outputs], name=tower.name)


def _images(model: keras.Model) -> keras.KerasTensor:
    found = [tensor for tensor in getattr(model, "inputs", None) or () if len(tensor.shape) == 4]
    if not found:
        raise ImpossibleModel(
            f"Expected a KerasHub backbone with an input of images. Received: {type(model).__name__}, which has none."
        )
    return found[0]


def _of_size(keras_hub: Any, preset: str, size: tuple[int, int], own: tuple[int, ...]) -> keras.Model:  # noqa: ANN401, a module
    error: Exception | None = None
    try:
        model = _backbone(keras_hub, preset, image_shape=(*size, 3))
        if tuple(_images(model).shape[1:3]) == size:
            return model
    except Exception as caught:  # noqa: BLE001, its positions are for one size, or its patches do not divide this one
        error = caught
    said = f", of which KerasHub says: {first_line(error)}" if error and str(error).strip() else "."
    raise ImpossibleInput(
        f"Expected an input size that the preset {preset} can take, such as its own {own[0]}x{own[1]}. Received: "
        f"{size[0]}x{size[1]} pixels{said} Set input: size: in the recipe."
    ) from error


def _backbone(keras_hub: Any, preset: str, **arguments: Any) -> keras.Model:  # noqa: ANN401, a module without types
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*mask")  # Swin passes windows' mask by that name
        return keras_hub.models.Backbone.from_preset(preset, **arguments)


def image_tower(model: keras.Model) -> keras.Model:
    """Return the part of a model of images and text that sees images; any other model unchanged.

    Its last layer, `projection`, gives the vector in the space that both towers share, of length one.
    """
    if len(model.inputs) == 1 or getattr(model, "vision_encoder", None) is None:
        return model
    return _tower(model, "vision", _images(model))


def text_tower(model: keras.Model) -> keras.Model:
    """Return the part of a model of images and text that sees token ids; its last layer is `projection` too.

    Raises:
        ImpossibleModel: It has none.
    """
    ids = [tensor for tensor in model.inputs if len(tensor.shape) == 2]
    if getattr(model, "text_encoder", None) is None or len(ids) != 1:
        raise ImpossibleModel(
            f"Expected a KerasHub backbone of images and text, such as CLIP or SigLIP. Received: "
            f"{type(model).__name__}, which has no text tower."
        )
    return _tower(model, "text", ids[0])


def _tower(model: keras.Model, kind: str, taken: keras.KerasTensor) -> keras.Model:
    last = getattr(model, f"{kind}_projection", None) or getattr(model, f"{kind}_encoder")
    (call,) = Network(model).calls_of(last)
    (tensor,) = call.outputs
    if len(tensor.shape) == 2:
        tensor = keras.layers.UnitNormalization(name="projection")(tensor)
    return keras.Model(taken, tensor, name=model.name)


def inside(call: Call, tensors: Mapping[int, Any]) -> keras.Model | None:
    """Return what a layer of KerasHub does as a model of the calls that it makes; None for one that stays whole.

    A layer with weights of its own, an attention, and what needs to know the batch's size stay whole.

    Args:
        call: The layer's call.
        tensors: Its inputs: symbolic tensors, or constants, by the identity of the tensor that each replaces.
    """
    if not _calls_others_alone(call) and not _is_activation(call.layer):
        return None
    given = {
        key: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)
        for key, tensor in tensors.items()
        if isinstance(tensor, keras.KerasTensor)
    }
    args, kwargs = call.own_arguments({**tensors, **given})
    try:
        found = _EXPRESSED.get(call.kind, type(call.layer).call)(call.layer, *args, **kwargs)
        model = keras.Model(list(given.values()), keras.tree.flatten(found))
    except Exception:  # noqa: BLE001, Python that computes with values
        return None
    names: dict[str, int] = {}
    for each in Network(model).calls:
        if None in (getattr(each.layer, "newshape", None) or ()):  # a reshape for a batch whose size is known
            return None
        if each.inputs and not isinstance(each.layer, keras.Layer):  # Keras numbers operations through all models
            kind = each.kind.lower()
            names[kind] = names.get(kind, -1) + 1
            each.layer.name = f"{kind}_{names[kind]}" if names[kind] else kind
    return model


def _calls_others_alone(call: Call) -> bool:
    """Whether a layer of KerasHub calls others, has no weights of its own, and is no attention."""
    layer = call.layer
    if not is_of_kerashub(layer) or call.kind.endswith("Attention"):
        return False
    own_weights = layer._trainable_variables or layer._non_trainable_variables  # noqa: SLF001, without those of others
    return bool(layer._layers) and not own_weights  # noqa: SLF001, Keras lists them nowhere else


def is_of_kerashub(layer: keras.Operation) -> bool:
    """Whether a layer's class is one of KerasHub's."""
    return isinstance(layer, keras.Layer) and type(layer).__module__.startswith("keras_hub.")


def _is_activation(layer: keras.Operation) -> bool:
    """Whether a layer only calls a function of KerasHub, which Keras cannot read back from a file."""
    return isinstance(layer, keras.layers.Activation) and layer.activation.__module__.startswith("keras_hub.")


def does_nothing(call: Call) -> bool:
    """Whether a call returns its input in inference."""
    return call.kind in _NOTHING


def settle(call: Call, tensors: Mapping[int, Any]) -> None:
    """Have a layer of KerasHub say the shape of what it computes, and a configuration that it can be made from.

    SigLIP's embedding says one token more than there are, merging of patches does not say how many, and ViT's embedding
    and DINOv3's attention have other names in their configuration than in their constructor.
    """
    layer = call.layer
    if not is_of_kerashub(layer):
        return

    def alone(tensor: Any) -> Any:  # noqa: ANN401, of any structure
        return (
            keras.KerasTensor((1, *tensor.shape[1:]), tensor.dtype) if isinstance(tensor, keras.KerasTensor) else tensor
        )

    args, kwargs = keras.tree.map_structure(alone, call.own_arguments(tensors))
    found = compute_output_spec(layer.call, *args, **kwargs)
    shapes = keras.tree.map_structure(lambda tensor: (None, *tensor.shape[1:]), found)
    layer.compute_output_shape = lambda *_, **__: shapes
    _mend_config(layer)


def _mend_config(layer: keras.Layer) -> None:
    taken = (*inspect.signature(type(layer).__init__).parameters, "name", "trainable", "dtype")
    named = {f"use_{key}" if f"use_{key}" in taken else key: value for key, value in layer.get_config().items()}
    config = {
        key: getattr(layer, f"{key}_rate") if isinstance(value, keras.Layer) else value  # Swin: a layer for its rate
        for key, value in named.items()
        if key in taken
    }
    layer.get_config = lambda: config


def constants(call: Call) -> list[Any] | None:
    """Return what a call gives if that is the same for all images, as rotary positions are; else None."""
    if any(tensor.shape[0] is None for tensor in call.outputs) or not is_of_kerashub(call.layer):
        return None
    return call.compute({id(tensor): ops.zeros((1, *tensor.shape[1:]), tensor.dtype) for tensor in call.inputs})


@keras.saving.register_keras_serializable("microtome")
class WindowedAttention(keras.layers.Layer):  # type: ignore[misc] # Keras has no types
    """The attention of a block of Swin: within windows, which every other block shifts.

    KerasHub's block divides the map into windows and joins them again around its attention, whose own output has a row
    for each window and not for each image.

    Args:
        attention: KerasHub's layer.
        resolution: Height and width of the map.
        window: Side of a window, in positions.
        shift: Positions by which windows are shifted.
    """

    def __init__(
        self,
        attention: keras.Layer,
        resolution: Sequence[int],
        window: int,
        shift: int,
        **kwargs: Any,  # noqa: ANN401, of layers
    ) -> None:
        super().__init__(**kwargs)
        self.attention = attention
        self.attention.supports_masking = True  # or Keras warns of what its argument is called
        self.resolution, self.window, self.shift = tuple(resolution), window, shift

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "WindowedAttention":
        """Make a layer from what `get_config` returns."""
        attention = keras.saving.deserialize_keras_object(config["attention"])
        return cls(**{**config, "attention": attention})

    def call(self, tokens: keras.KerasTensor) -> keras.KerasTensor:
        """Return [N, H * W, C] for [N, H * W, C]."""
        (height, width), side, channels = self.resolution, self.window, tokens.shape[-1]
        rows, columns = -(-height // side), -(-width // side)
        x = ops.reshape(tokens, (-1, height, width, channels))
        if self.shift:
            x = ops.roll(x, (-self.shift, -self.shift), (1, 2))
        x = ops.pad(x, [[0, 0], [0, rows * side - height], [0, columns * side - width], [0, 0]])
        x = ops.transpose(ops.reshape(x, (-1, rows, side, columns, side, channels)), (0, 1, 3, 2, 4, 5))
        x = self.attention(ops.reshape(x, (-1, side * side, channels)), mask=self._mask())
        x = ops.transpose(ops.reshape(x, (-1, rows, columns, side, side, channels)), (0, 1, 3, 2, 4, 5))
        x = ops.reshape(x, (-1, rows * side, columns * side, channels))
        if self.shift:
            x = ops.roll(x, (self.shift, self.shift), (1, 2))
        return ops.reshape(x[:, :height, :width], (-1, height * width, channels))

    def _mask(self) -> np.ndarray[Any, Any] | None:
        """Return what keeps positions from those that only a shift has put beside them."""
        if not self.shift:
            return None
        height, width = self.resolution
        side, shift = self.window, self.shift
        cuts = (slice(0, -side), slice(-side, -shift), slice(-shift, None))
        regions = np.zeros((height, width), np.int32)
        for number, (row, column) in enumerate((row, column) for row in cuts for column in cuts):
            regions[row, column] = number
        rows, columns = -(-height // side), -(-width // side)
        padded = np.pad(regions, [(0, rows * side - height), (0, columns * side - width)])
        windows = padded.reshape(rows, side, columns, side).transpose(0, 2, 1, 3).reshape(-1, side * side)
        return np.where(windows[:, None] != windows[:, :, None], np.float32(-100.0), np.float32(0.0))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        attention = keras.saving.serialize_keras_object(self.attention)
        own = {"attention": attention, "resolution": self.resolution, "window": self.window, "shift": self.shift}
        return {**super().get_config(), **own}


def _swin_patches(embedding: Any, images: keras.KerasTensor) -> keras.KerasTensor:  # noqa: ANN401, KerasHub has no types
    """Express the embedding of Swin's patches, whose `call` needs the batch's size."""
    x = embedding.proj(images)
    x = keras.layers.Reshape((x.shape[1] * x.shape[2], x.shape[3]), name="patches")(x)
    return embedding.norm(x) if embedding.norm else x


def _swin_block(block: Any, tokens: keras.KerasTensor) -> keras.KerasTensor:  # noqa: ANN401, KerasHub has no types
    """Express a block of Swin by its parts, as `SwinTransformerBlock.call` does within itself."""
    _mend_config(block.attn)
    attention = WindowedAttention(block.attn, block.input_resolution, block.window_size, block.shift_size, name="attn")
    x = tokens + attention(block.norm1(tokens))
    return x + block.mlp(block.norm2(x))


_EXPRESSED = {"PatchEmbedding": _swin_patches, "SwinTransformerBlock": _swin_block}
"""What `inside` does not see by a layer's own `call`, by the layer's class."""
