"""Find the tensors of a backbone by name.

Keras' `layer.output` is the output of the layer's first call even if there are several calls. Here a layer's name is
accepted only if it means one tensor; `layer:call` and `layer:call:output` are always unambiguous. A layer may also be
given by its index in `model.layers`, from the front (`17`) or from the back (`-2`).
"""

import re
from collections.abc import Sequence

import keras

from exporter.errors import AmbiguousLayer, UnknownLayer, nearest
from exporter.graph.network import Call, Network

_INDEX = re.compile(r"-?\d+", re.ASCII)


def find_tensor(model: keras.Model, ref: str) -> keras.KerasTensor:
    """Return the Keras tensor that a recipe's `layer` names.

    Raises:
        UnknownLayer: The model has no such layer, call or output.
        AmbiguousLayer: The layer has several calls or outputs, and the name does not choose one.
    """
    network = Network(model)
    word, indices = _split(network.model, ref)
    calls = network.calls_of(_find_layer(network.model, word))
    refs = [shortest_ref(call, output, calls) for call in calls for output in range(len(call.outputs))]
    if not indices and len(refs) > 1:
        raise AmbiguousLayer(f"Expected one of {', '.join(refs)}. Received: {ref!r}, which means all of them.")
    call, output = _indices(indices)
    if call is None or call >= len(calls) or output >= len(calls[call].outputs):
        raise UnknownLayer(f"Expected one of {', '.join(refs)}. Received: {ref!r}.")
    return calls[call].outputs[output]


def shortest_ref(call: Call, output: int, calls: Sequence[Call]) -> str:
    """Return the shortest unambiguous name of a tensor.

    Args:
        call: The call that returns the tensor.
        output: The tensor's index among the call's outputs.
        calls: All calls of the layer.
    """
    if len(call.outputs) > 1:
        return f"{call.layer.name}:{call.call}:{output}"
    return f"{call.layer.name}:{call.call}" if len(calls) > 1 else str(call.layer.name)


def _split(model: keras.Model, ref: str) -> tuple[str, list[str]]:
    """Return a ref's layer and indices; a layer may have colons in its own name."""
    parts, names = ref.split(":"), {layer.name for layer in model.operations}
    count = next((count for count in range(len(parts), 0, -1) if ":".join(parts[:count]) in names), 1)
    return ":".join(parts[:count]), parts[count:]


def _find_layer(model: keras.Model, word: str) -> keras.Operation:
    by_name = {layer.name: layer for layer in model.operations}
    if word in by_name:
        return by_name[word]
    count = len(model.layers)  # indices count layers only, as model.layers[-2] does; by_name also has bare operations
    if _INDEX.fullmatch(word):
        if -count <= int(word) < count:
            return model.layers[int(word)]
        raise UnknownLayer(f"Expected a layer of {model.name} from {-count} to {count - 1}. Received: {word}.")
    raise UnknownLayer(
        f"Expected one of the {len(by_name)} layers of {model.name}. Received: {word!r}. {nearest(word, by_name)} "
        "See microtome layers."
    )


def _indices(texts: list[str]) -> tuple[int | None, int]:
    if len(texts) > 2 or not all(text.isascii() and text.isdigit() for text in texts):
        return None, 0
    call, output, *_ = [*(int(text) for text in texts), 0, 0]
    return call, output
