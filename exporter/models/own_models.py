"""Load the user's own models, from a `.keras` or `.h5` file, a function or a KerasHub preset, as one flat network."""

import importlib
import io
import json
import math
import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from inspect import signature
from pathlib import Path
from typing import IO, Any

import h5py
import keras
from keras.src.legacy.saving import saving_utils
from keras.src.legacy.saving.saving_options import keras_option_scope
from keras.src.ops import core, nn, numpy
from keras.src.ops import math as math_operations
from keras.src.saving.serialization_lib import SafeModeScope

from exporter.errors import ImpossibleInput, ImpossibleModel, first_line
from exporter.graph.network import (
    Call,
    Network,
    order,
    place,
    prefix_tokens,
    put,
    put_end,
    put_order,
    put_prefix_tokens,
)
from exporter.models import classic_networks, kerashub
from exporter.recipe.own_backbones import KERAS_FILES, LARGEST_CONFIG, color_of, saved_config
from exporter.runtime.archives import FREE_BYTES, MOST_TIMES, check_inflated, opened_zip
from microtome.manifest import TokensSpec

_LAYERS = {"microtome>LocalResponseNormalization": classic_networks.LocalResponseNormalization}
"""Found by their registered names, wherever they are defined: blocks of older versions name another module."""

_MOST_CALLS = 100_000
"""Of layers, initialisers and the like; NASNetMobile has 3,790. Models within models multiply theirs."""

_MOST_VALUES = 1 << 28
"""Of one tensor, for one image: 1 GB. The largest of EfficientNetB7, at 600x600 pixels, has 35 million."""

_MODELS = ("Functional", "Model", "Sequential")
_HALF = ("float16", "bfloat16")


def load(
    text: str, wanted: tuple[int, int] | TokensSpec | None = None, *, shared: bool = False
) -> tuple[keras.Model, str, kerashub.Space | None]:
    """Return the model, where it came from, and the space that the towers of a preset share.

    Args:
        text: A path ending in `.keras` or `.h5`, `module:function` or `keras_hub:preset`.
        wanted: Height and width in pixels, for a preset, some of which can be built for another one than their own; or
            the tokens of its text tower.
        shared: Whether the space is wanted; see `exporter.models.kerashub.load`.

    Raises:
        ImpossibleModel: It does not exist, or it is not a functional model with one image input.
    """
    space = None
    if text.endswith(KERAS_FILES):
        model, origin = _from_file(Path(text)), f"the file {Path(text).name}"
    elif text.startswith("keras_hub:"):
        preset = text.partition(":")[2]
        model, space = kerashub.load(preset, wanted, shared=shared)
        origin = f"KerasHub preset {preset}"
    else:
        model, origin = _from_function(text), f"the function {text}"
    if not isinstance(model, keras.Model):
        raise ImpossibleModel(f"Expected a keras.Model from {text}. Received: {type(model).__name__}.")
    if isinstance(model, keras.Sequential) and not model.built:
        raise ImpossibleModel(f"Expected {text} to begin with keras.Input. Received: a Sequential without input shape.")
    if not isinstance(model, keras.Sequential) and not hasattr(model, "_nodes_by_depth"):
        raise ImpossibleModel(
            f"Expected a functional or Sequential model from {text}, whose layers can be cut at. Received: the "
            f"subclass {type(model).__name__}. Wrap its parts as keras.Model(inputs, outputs)."
        )
    if isinstance(wanted, TokensSpec):
        return model, origin, space
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ImpossibleModel(f"Expected one input of images [N, H, W, channels] in {text}. Received: {shapes}.")
    if color_of(shapes[0][3]) is None:
        raise ImpossibleModel(
            f"Expected images of 1 (gray), 3 (RGB) or 4 channels (RGB and opacity), the last dimension, in {text}. "
            f"Received: the layer {model.inputs[0].name} of {shapes[0]}. Begin the model with a keras.Input((height, "
            "width, 3)) and a layer that makes of it what the rest takes."
        )
    return model, origin, space


def _from_file(path: Path) -> keras.Model:
    if not path.is_file():
        raise ImpossibleModel(f"Expected a file {path}. Received: there is none.")
    try:
        return load_keras(path)
    except Exception as error:  # Keras raises many types for damaged files
        if (told := _own_code(path, str(error))) is not None:
            raise ImpossibleModel(told) from error
        raise ImpossibleModel(
            f"Expected a model saved by Keras 3. Received: {path}, of which Keras says: {first_line(error)}"
        ) from error


def _own_code(path: Path, said: str) -> str | None:
    """Return what to do about a layer that is the user's own code, if Keras said that it cannot load one."""
    try:
        config = saved_config(path)
    except Exception as error:  # noqa: BLE001, what is wrong with the file has been said
        if not isinstance(error, KeyError) or path.name.endswith(KERAS_FILES[0]):
            return None
        return (
            f"Expected a whole model, as model.save writes it. Received: {path}, which holds weights only. Name the "
            f"architecture as backbone: and the file as weights: {path.name}."
        )
    told = said.partition(" object config")[0]
    loaded = f"say backbone: module:function, with a function that returns keras.saving.load_model({path.name!r}"
    for kind, name in _layers(config):
        if kind == "Lambda" and "ambda" in said:
            return (
                f"Expected layers without code of their own. Received: {path}, whose layer {name} is a Lambda, and "
                "Python code is not run from files. Write it as a class of its own; or, if you trust the file, "
                f"{loaded}, safe_mode=False)."
            )
        if kind in _MODELS or hasattr(keras.layers, kind) or f"'{kind}'" not in told:
            continue
        if any(hasattr(operations, kind) for operations in (core, math_operations, nn, numpy)):
            return (
                f"Expected a model that Keras can read back. Received: {path}, whose {name} is the operation {kind}, "
                "which .h5 files do not keep. Save the model as FILE.keras."
            )
        return (
            f"Expected layers that Keras knows. Received: {path}, whose layer {name} is of your own class "
            f"{kind.rpartition('>')[2]}. "
            f'Decorate the class with @keras.saving.register_keras_serializable("mine") in a module of yours, and '
            f"{loaded}) from that module."
        )
    return None


def _layers(config: object) -> Iterator[tuple[str, str]]:
    """Yield the class and the name of each layer in a configuration, also of models within it."""
    if isinstance(config, list):
        for one in config:
            yield from _layers(one)
    elif isinstance(config, dict) and isinstance(inner := config.get("config"), dict | list):
        own = inner if isinstance(inner, dict) else {}
        yield str(config.get("class_name")), str(own.get("name", "without a name"))
        for key in ("layers", "layer"):
            yield from _layers([own[key]] if isinstance(own.get(key), dict) else own.get(key))


def load_keras(path: Path) -> keras.Model:
    """Load a `.keras` file, or a `.h5` file with a whole model.

    Raises:
        Exception: It is damaged, inflates to more than its size allows, or needs code that is not imported; of the many
            types that Keras raises.
    """
    size = path.stat().st_size
    if path.name.endswith(KERAS_FILES[0]):
        _check_archive(path, size)
    else:
        check_h5(path, size)
    config = saved_config(path)
    outdated = _mended(config)
    # A thread has a Keras session of its own: what is not computed there is not computed later either.
    with ThreadPoolExecutor(1, "sizes") as apart:
        apart.submit(_check_sizes, config, size).result()
    with _rewritten(path, config) if outdated else nullcontext(path) as readable:
        # Safe mode refuses Lambda layers with pickled code; module:function can load those.
        return keras.saving.load_model(readable, custom_objects=_LAYERS, compile=False, safe_mode=True)


def _mended(config: object) -> bool:
    """Write what releases of Keras 3 before 3.7 wrote as this one reads it, in place; return whether anything changed.

    They wrote `value_range` for RandomRotation, which does nothing here and is refused since; and a single output of a
    model within a Sequential as a list, which the next layer would be given.
    """
    if isinstance(config, list):
        return any(list(map(_mended, config)))  # all of them
    if not isinstance(config, dict):
        return False
    changed, name, own = False, str(config.get("class_name")), config.get("config")
    if isinstance(own, dict) and name.startswith("Random") and (layer := getattr(keras.layers, name, None)) is not None:
        known = {*signature(layer).parameters, "name", "trainable", "dtype", "seed", "data_format"}
        for key in own.keys() - known:
            del own[key]
            changed = True
    if isinstance(own, dict) and name == "Sequential" and isinstance(own.get("layers"), list):
        for inner in own["layers"]:
            found = inner.get("config") if isinstance(inner, dict) else None
            ends = found if isinstance(found, dict) else {}
            for key in ("input_layers", "output_layers"):
                if isinstance(end := ends.get(key), list) and len(end) == 1 and isinstance(end[0], list):
                    ends[key] = end[0]
                    changed = True
    return any([changed, *map(_mended, config.values())])


@contextmanager
def _rewritten(path: Path, config: object) -> Iterator[Path]:
    """Give a copy of a `.keras` file with another configuration while the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
            for name in old.namelist():
                if name == "config.json":
                    new.writestr(name, json.dumps(config))
                else:
                    with old.open(name) as source, new.open(name, "w", force_zip64=True) as target:
                        shutil.copyfileobj(source, target)
        yield copy


def _check_archive(path: Path, size: int) -> None:
    with opened_zip(path) as archive:
        for name in archive.namelist():
            if name.endswith(".json") and archive.getinfo(name).file_size > LARGEST_CONFIG:
                raise ValueError(f"{name} has {archive.getinfo(name).file_size:,} bytes.")
            if name.endswith(".h5"):
                with archive.open(name) as member:
                    stored = archive.getinfo(name).compress_type == zipfile.ZIP_STORED
                    # Going back in a packed member would inflate it again each time.
                    check_h5(member if stored else io.BytesIO(member.read()), size)


def _check_sizes(config: Any, size: int) -> None:  # noqa: ANN401, what is in the file
    """Build a configuration without its weights, which Keras would otherwise make before it looks for them in the file.

    Raises:
        ValueError: It has more weights than the file can hold, or a tensor or calls beyond what networks have.
        Exception: Keras cannot build it.
    """
    if (calls := _calls(config)) > _MOST_CALLS:
        raise ValueError(f"its layers are called {calls:,} times; at most {_MOST_CALLS:,} are read.")
    if isinstance(config, dict) and "module" in config:
        config["compile_config"] = None
    with keras.StatelessScope(initialize_variables=False):
        model = _from_config(config)
        if (weights := model.count_params()) * 4 > FREE_BYTES + MOST_TIMES * size:
            raise ValueError(f"its layers have {weights:,} weights, and the file has {size:,} bytes.")
        for layer in model._flatten_layers():  # noqa: SLF001, also those of models within it
            for operation in (layer, *getattr(layer, "operations", ())):
                for tensor in (tensor for node in operation._inbound_nodes for tensor in node.output_tensors):  # noqa: SLF001, as in graph/network
                    if (values := math.prod(side or 1 for side in tensor.shape)) > _MOST_VALUES:
                        raise ValueError(f"its layer {operation.name} gives {values:,} values for an image.")


def _from_config(config: Any) -> keras.Model:  # noqa: ANN401, what is in the file
    if isinstance(config, dict) and "module" not in config:  # of a .h5 file, which names no modules
        with keras_option_scope(use_legacy_config=True), SafeModeScope(safe_mode=True):
            return saving_utils.model_from_config(config, custom_objects=_LAYERS)
    return keras.models.model_from_json(json.dumps(config), custom_objects=_LAYERS)


def _calls(config: object) -> int:
    """Count the layers of a configuration, each as often as it and the models around it are called."""
    if isinstance(config, list):
        return sum(map(_calls, config))
    if not isinstance(config, dict):
        return 0
    times = config.get("inbound_nodes")
    own = sum(map(_calls, config.values())) + ("class_name" in config)
    return own * (len(times) if isinstance(times, list) and times else 1)


def check_h5(file: Path | IO[bytes], size: int) -> None:
    """Check that the arrays of an HDF5 file are in it, and are no larger than its size allows.

    Args:
        file: The file.
        size: Of the file that it is or is in, in bytes.

    Raises:
        ValueError: It refers to other files, or a few bytes stand for a large array.
        OSError: It is no HDF5 file.
        zipfile.BadZipFile: It inflates to more.
    """
    found: list[int] = []
    elsewhere: list[str] = []

    def see(name: str, link: object) -> None:
        if isinstance(link, h5py.ExternalLink):
            elsewhere.append(name)

    def measure(name: str, thing: object) -> None:
        if isinstance(thing, h5py.Dataset):
            found.append(thing.size * thing.dtype.itemsize)
            if thing.external or thing.is_virtual:
                elsewhere.append(name)

    with h5py.File(file, "r") as weights:
        weights.visititems_links(see)
        weights.visititems(measure)
    if elsewhere:
        raise ValueError(f"{elsewhere[0]} is in another file.")
    check_inflated(sum(found), size)


def _from_function(text: str) -> keras.Model:
    module, _, name = text.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as python -m does, for modules in the current directory
    try:
        function = getattr(importlib.import_module(module), name)
        return function()
    except Exception as error:  # the user's code may raise anything
        raise ImpossibleModel(
            f"Expected the module {module} with a function {name}() that returns a keras.Model. Received: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        sys.path.remove(here)


def resized(model: keras.Model, height: int, width: int) -> keras.Model:
    """Return the model as one network, with the same layers, that takes float32 images of another size.

    Models within it are opened: their calls are made one by one, on the same layers, so that each can be cut at. What
    was saved for mixed precision computes in float32. A model for which nothing changes is returned itself.

    Args:
        model: Functional, with one input [N, H, W, channels] of any fixed or unknown size and any dtype.
        height: Pixels.
        width: Pixels.

    Raises:
        ImpossibleInput: A layer, such as a classifier on a flattened map, cannot take that size.
    """
    (images,) = model.inputs
    precise = _in_float32(model)
    same = tuple(images.shape[1:3]) == (height, width) and images.dtype == "float32"
    closed = all(call.inner is None and not kerashub.is_of_kerashub(call.layer) for call in Network(model).calls)
    if same and precise and closed:
        return model
    return opened(model, (height, width, images.shape[3]), "float32")


def opened(model: keras.Model, shape: tuple[int, ...], dtype: str) -> keras.Model:
    """Return the model as one network, with the same layers, that takes inputs of this shape; see `resized`."""
    name = next(call.layer.name for call in Network(model).calls if not call.inputs)
    start = keras.Input(shape, dtype=dtype, name=name)
    outputs = _Opened(model, shape).again(model, [start])
    found = keras.Model(start, outputs, name=model.name)
    put_order(found, order(model))
    put_prefix_tokens(found, prefix_tokens(model))
    return found


def _in_float32(model: keras.Model) -> bool:
    """Let layers that were saved for mixed precision compute in float32; return whether there were none."""
    every = model._flatten_layers()  # noqa: SLF001, also those of models within it
    lower = [layer for layer in every if layer.compute_dtype in _HALF and layer.variable_dtype == "float32"]
    for layer in lower:
        layer.dtype_policy = "float32"
    return not lower


class _Opened:
    """Repeats the calls of a model and of the models within it, and says of each layer where it is."""

    def __init__(self, model: keras.Model, shape: tuple[int, ...]) -> None:
        self._model, self._shape = model, shape
        calls = Network(model).calls
        self._named = {call.layer.name: call.layer for call in calls if call.inner is None}
        self._own = {id(call.layer) for call in calls}
        self._calls: Counter[str] = Counter()
        self._of_kerashub = prefix_tokens(model) is not None

    def again(
        self, model: keras.Model, given: Sequence[keras.KerasTensor], within: str = "", training: bool | None = None
    ) -> list[keras.KerasTensor]:
        """Repeat the calls of a model on other tensors.

        Args:
            model: The model, or one within it.
            given: Its inputs.
            within: Where it is, with a slash at the end.
            training: As the models around it were called.
        """
        cast = [self._cast(tensor, wanted, within) for tensor, wanted in zip(given, model.inputs, strict=True)]
        tensors = dict(zip(map(id, model.inputs), cast, strict=True))
        for call in Network(model).calls:
            if not call.inputs:
                continue
            name = place(call.layer).rpartition("/")[2]
            where = within + (name.removeprefix(f"{model.name}_") if self._of_kerashub else name)
            taken = {id(tensor): tensors[id(tensor)] for tensor in call.inputs}
            inner = call.inner or kerashub.inside(call, taken)
            if inner is not None:
                mode = training if call.training is None else call.training
                symbolic = [tensor for tensor in taken.values() if isinstance(tensor, keras.KerasTensor)]
                found = self.again(inner, symbolic, f"{where}/", mode)
                for output, tensor in enumerate(found):
                    put_end(tensor, where, self._calls[where], output)
                self._calls[where] += 1
            elif self._of_kerashub and kerashub.does_nothing(call):
                found = list(taken.values())
            elif (same := kerashub.constants(call)) is not None:
                found = same
            else:
                self._put(call.layer, where)
                kerashub.settle(call, taken)
                found = self._repeated(call, tensors, training)
            tensors.update(zip((id(tensor) for tensor in call.outputs), found, strict=True))
        return [tensors[id(tensor)] for tensor in model.outputs]

    def _repeated(
        self, call: Call, tensors: Mapping[int, keras.KerasTensor], training: bool | None
    ) -> list[keras.KerasTensor]:
        try:
            return call.again(tensors, training)
        except ValueError as error:
            (images,), (height, width, *_) = self._model.inputs, self._shape
            raise ImpossibleInput(
                f"Expected an input size that {self._model.name} can take, such as its own "
                f"{images.shape[1]}x{images.shape[2]}. Received: {height}x{width} pixels, at which the layer "
                f"{place(call.layer)} fails. Set input: size: in the recipe."
            ) from error

    def _put(self, layer: keras.Operation, where: str) -> None:
        if id(layer) in self._own:  # the model calls it itself, and perhaps a model within it does too
            if where != place(layer) and "/" not in where and where not in self._named:  # KerasHub's prefix is gone
                put(layer, where, where)
            return
        self._own.add(id(layer))
        name = where.rpartition("/")[2]
        plain = name if name not in self._named else where.replace("/", ".")
        while plain in self._named:
            plain += "_"
        self._named[plain] = layer
        put(layer, where, plain)

    def _cast(self, tensor: keras.KerasTensor, wanted: keras.KerasTensor, within: str) -> keras.KerasTensor:
        """Cast as Keras does on the way into a model: to whole numbers, or from them."""
        dtypes = {tensor.dtype, wanted.dtype}
        if len(dtypes) == 1 or all(keras.backend.is_float_dtype(dtype) for dtype in dtypes):
            return tensor
        found = keras.ops.cast(tensor, wanted.dtype)
        self._put(found._keras_history.operation, f"{within}cast")  # noqa: SLF001, as in graph/network
        return found
