"""Build a backbone with its weights.

A missing network, package or file raises an error with the ways out; weights are random only if the recipe says so.
"""

import contextlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import keras

from exporter.errors import ImpossibleInput, ImpossibleWeights, WeightsFileBroken, WeightsUnavailable, first_line
from exporter.graph.network import functional
from exporter.models import classic_networks, efficientnet_lite, own_models, torchvision_networks
from exporter.models.kerashub import Space
from exporter.models.pytorch_file import read_state_dict
from exporter.recipe.backbones import BACKBONES, PYTORCH_FILES, Backbone
from exporter.recipe.own_backbones import color_of
from microtome.manifest import Color, InputSpec, TokensSpec

OWN_WEIGHTS = "own"
_SEED = 0
_URL = re.compile(r"https?://\S+?(?=[\s:,]|$)")
_KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")
_TOPS: dict[bool | None, tuple[str, str]] = {
    True: (" with its classifier", " If the file is without the classifier, say include_top: false."),
    False: (" without its classifier", " If the file has the classifier, say include_top: true."),
    None: ("", ""),  # an own model
}
"""What was built, and what to say if the weights are of the other, by whether the classifier is there."""


@dataclass(frozen=True, slots=True)
class Built:
    """A backbone with its weights.

    Attributes:
        row: The backbone's row.
        model: Takes float32 [N, H, W, channels], scaled as `row.scaling` says; a text tower int32 [N, T].
        weights: `imagenet`, `random`, `own`, or the path of a weights file.
        source: Where the weights came from, for people.
        space: In which both towers of a preset meet, where it was asked for.
    """

    row: Backbone
    model: keras.Model
    weights: str
    source: str
    space: Space | None = None

    @property
    def color(self) -> Color:
        """Of the images that the model takes."""
        return color_of(self.model.inputs[0].shape[3]) or "rgb"


def build(  # noqa: PLR0913, of what and for what
    row: Backbone,
    weights: str | None,
    pixels: InputSpec | TokensSpec,
    *,
    include_top: bool | None = None,
    any_color: bool = False,
    shared: bool = False,
) -> Built:
    """Build a backbone for an input size.

    Args:
        row: The backbone.
        weights: `imagenet` or `random` for a row of the table, `own` for an own model, a weights file for both. None if
            only the architecture matters: random weights, or those of the own model.
        pixels: Height, width and colour; or the tokens of a preset's text tower.
        include_top: Whether to build the classifier, so that its layers can be cut at. None: only at the backbone's own
            input size, where published weights fit it.
        any_color: Whether an own model may take another colour than `pixels` says.
        shared: Whether to say in which space the towers of a preset meet.

    Raises:
        WeightsUnavailable: The weights are neither on this machine nor downloadable.
        WeightsFileBroken: The weights file is damaged, or not of this backbone.
        ImpossibleInput: The architecture does not allow this size, or this size with the classifier, or this colour.
        ImpossibleWeights: This kind of backbone has no such weights.
        ImpossibleModel: The user's file or function does not give a model that can be cut.
    """
    # Seeded, because the same recipe must give the same vectors in every run.
    keras.utils.set_random_seed(_SEED)
    if isinstance(pixels, TokensSpec):
        return _build_text_tower(row, pixels, shared=shared)
    if row.name not in BACKBONES:
        return _build_own_model(row, weights, pixels, any_color=any_color, shared=shared)
    own = row.preprocessing
    if include_top is None:
        include_top = (pixels.height, pixels.width) == (own.height, own.width)
    weights = weights or "random"
    from_file = weights not in ("imagenet", "random")
    construct = _build_keras_application if row.module is not None else _build_own_architecture
    size = (pixels.height, pixels.width)
    model, source = construct(row, "random" if from_file else weights, size, include_top=include_top)
    if from_file:
        source = _load_weights_file(model, row.name, weights, include_top=include_top)
    elif weights == "random":
        source = f"random initialisation by Keras {keras.__version__}, seed {_SEED}"
    return Built(row, model, weights, source)


def _build_text_tower(row: Backbone, tokens: TokensSpec, *, shared: bool) -> Built:
    loaded, source, space = own_models.load(row.name, tokens, shared=shared)
    return Built(row, own_models.opened(loaded, tokens.shape, "int32"), OWN_WEIGHTS, source, space)


def _build_own_model(row: Backbone, weights: str | None, pixels: InputSpec, *, any_color: bool, shared: bool) -> Built:
    if weights in ("imagenet", "random"):
        raise ImpossibleWeights(
            f"Expected weights: {OWN_WEIGHTS} or a weights file for {row.name}, which comes with its own. "
            f"Received: {weights!r}."
        )
    loaded, source, space = own_models.load(row.name, (pixels.height, pixels.width), shared=shared)
    color = color_of(loaded.inputs[0].shape[3])
    if color != pixels.color and not any_color:
        raise ImpossibleInput(
            f"Expected input: color: {color}, as the layer {loaded.inputs[0].name} of {Path(row.name).name} takes "
            f"{loaded.inputs[0].shape[3]} channels. Received: {pixels.color}. Say so in a recipe; files say it alone."
        )
    model = functional(loaded)
    if weights not in (None, OWN_WEIGHTS):  # into the layers as they were saved, before models within it are opened
        source = _load_weights_file(model, row.name, str(weights))
    return Built(row, own_models.resized(model, pixels.height, pixels.width), weights or OWN_WEIGHTS, source, space)


def _build_keras_application(
    row: Backbone, weights: str, size: tuple[int, int], *, include_top: bool
) -> tuple[keras.Model, str]:
    """Return an architecture of `keras.applications`, and where its `imagenet` or `random` weights came from."""
    factory = getattr(keras.applications, row.name)
    wanted = None if weights == "random" else weights
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras prints its download progress on stdout
            model = factory(weights=wanted, include_top=include_top, input_shape=(*size, 3))
    except Exception as error:  # keras.utils.get_file raises a bare Exception when it cannot download
        reason = " ".join(str(error).split())
        if isinstance(error, ValueError) and ("size" in reason or "input_shape" in reason):
            classifier = " with its classifier" if include_top else ""
            raise ImpossibleInput(
                f"Expected an input that {row.name}{classifier} can be built for. Received: {size[0]}x{size[1]} "
                f"pixels. Keras says: {reason} Set input: size: in the recipe."
            ) from error
        if wanted is None:
            raise
        url = _URL.search(reason)
        top = "" if include_top else " and include_top: false"
        raise WeightsUnavailable(
            f"Expected the ImageNet weights of {row.name} from {url[0] if url else 'the Keras cache'}. Received: "
            f"{reason.rsplit(' -- ', 1)[-1]}. Two ways on: give the file, fetched elsewhere, as weights: FILE.h5"
            f"{top} in the recipe; or use the backbone EfficientNetLite0, 1 or 2, whose weights are installed."
        ) from error
    return model, f"keras.applications.{row.name}, weights='imagenet', Keras {keras.__version__}"


def _build_own_architecture(
    row: Backbone, weights: str, size: tuple[int, int], *, include_top: bool
) -> tuple[keras.Model, str]:
    """Return an architecture that no library ships for Keras, and where its weights came from."""
    if row.name in efficientnet_lite.VARIANTS:
        model = efficientnet_lite.build(row.name, *size, include_top=include_top)
        return model, efficientnet_lite.load_imagenet(model, row.name) if weights == "imagenet" else ""
    if weights == "imagenet":
        raise WeightsUnavailable(
            f"Expected weights: random or a weights file for {row.name}, whose authors published none. Received: "
            "'imagenet'. EfficientNetLite0, 1 and 2 come with theirs."
        )
    try:
        networks = torchvision_networks if row.torchvision else classic_networks
        return networks.BUILDERS[row.name](*size, include_top=include_top), ""
    except ValueError as error:
        raise ImpossibleInput(
            f"Expected an input that {row.name} can be built for. Received: {size[0]}x{size[1]} pixels. Keras says: "
            f"{' '.join(str(error).split())}"
        ) from error


def _load_weights_file(model: keras.Model, backbone: str, path: str, *, include_top: bool | None = None) -> str:
    """Load Keras' `.weights.h5`, `.h5` or `.keras`, or a PyTorch state dict; return the source."""
    file = Path(path)
    if not file.is_file():
        raise WeightsUnavailable(f"Expected a weights file for {backbone}. Received: {path}, which is not there.")
    if file.suffix in PYTORCH_FILES:
        if backbone in torchvision_networks.BUILDERS:
            torchvision_networks.load_state(model, backbone, read_state_dict(file), file)
        else:
            efficientnet_lite.load_file(model, backbone, file)
    elif file.suffix in _KERAS_SUFFIXES:
        _load_keras_file(model, backbone, file, include_top)
    else:
        kinds = ", ".join((*_KERAS_SUFFIXES, *PYTORCH_FILES))
        raise WeightsFileBroken(f"Expected a weights file ({kinds}). Received: {path}.")
    return f"the file {file.name}"


def _load_keras_file(model: keras.Model, backbone: str, file: Path, include_top: bool | None) -> None:
    try:
        if file.suffix == ".keras":
            _copy_weights(model, own_models.load_keras(file))
        else:
            own_models.check_h5(file, file.stat().st_size)
            model.load_weights(file)
    except Exception as error:  # Keras and h5py raise many types for damaged files
        top, hint = _TOPS[include_top]
        raise WeightsFileBroken(
            f"Expected the weights of {backbone}{top}. Received: {file}, of which Keras says: {first_line(error)}{hint}"
        ) from error


def _copy_weights(model: keras.Model, donor: keras.Model) -> None:
    """Copy weights by layer name; the donor may have further layers, such as another classifier."""
    by_name = {layer.name: layer for layer in donor.layers}
    for layer in model.layers:
        if layer.weights:
            if layer.name not in by_name:
                raise ValueError(f"it has no layer {layer.name}.")
            layer.set_weights(by_name[layer.name].get_weights())
