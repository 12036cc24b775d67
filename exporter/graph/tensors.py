"""Find the tensors of a backbone by name.

Keras' `layer.output` is the output of the layer's first call even if there are several calls. Here a layer's name is
accepted only if it means one tensor; `layer:call` and `layer:call:output` are always unambiguous. A layer may also be
given by its index in `model.layers`, from the front (`17`) or from the back (`-2`). Layers of a model within the model
go by `base/conv1`, or by `conv1` if no other layer has this name; `base` is the output of that model.
"""

import re
from collections.abc import Collection, Sequence

import keras

from exporter.errors import AmbiguousLayer, UnknownLayer, nearest
from exporter.graph.network import Call, Network, ends_of, order, place

_INDEX = re.compile(r"-?\d+", re.ASCII)


def find_tensor(model: keras.Model, ref: str) -> keras.KerasTensor:
    """Return the Keras tensor that a recipe's `layer` names.

    Raises:
        UnknownLayer: The model has no such layer, call or output.
        AmbiguousLayer: The name has several layers, or the layer several calls or outputs, and it does not choose one.
    """
    network = Network(model)
    tensors = _tensors(network)
    word, indices = _split(tensors, ref)
    where = _find_layer(network.model, tensors, word)
    refs, several = [], len({call for call, _ in tensors[where]}) > 1
    for call, output in tensors[where]:
        many = (call, 1) in tensors[where]
        refs.append(f"{where}:{call}:{output}" if many else f"{where}:{call}" if several else where)
    if not indices and len(refs) > 1:
        raise AmbiguousLayer(f"Expected one of {', '.join(refs)}. Received: {ref!r}, which means all of them.")
    wanted = _indices(indices)
    if wanted not in tensors[where]:
        raise UnknownLayer(f"Expected one of {', '.join(refs)}. Received: {ref!r}.")
    return tensors[where][wanted]


def _tensors(network: Network) -> dict[str, dict[tuple[int, int], keras.KerasTensor]]:
    """Return the tensors of each layer, and those of each model within the model, by call and output."""
    found: dict[str, dict[tuple[int, int], keras.KerasTensor]] = {}
    for layer in network.model.operations:
        for call in network.calls_of(layer):
            for output, tensor in enumerate(call.outputs):
                found.setdefault(place(layer), {})[call.call, output] = tensor
    for call in network.calls:
        for tensor in call.outputs:
            for where, number, output in ends_of(tensor):
                found.setdefault(where, {})[number, output] = tensor
    return found


def shortest_ref(call: Call, output: int, calls: Sequence[Call]) -> str:
    """Return the shortest unambiguous name of a tensor.

    Args:
        call: The call that returns the tensor.
        output: The tensor's index among the call's outputs.
        calls: All calls of the layer.
    """
    if len(call.outputs) > 1:
        return f"{place(call.layer)}:{call.call}:{output}"
    return f"{place(call.layer)}:{call.call}" if len(calls) > 1 else place(call.layer)


def _meant(places: Collection[str], word: str) -> list[str]:
    """Return the layers that a word may mean: the one of this name, or those whose names end in it."""
    return [word] if word in places else [where for where in places if where.endswith(f"/{word}")]


def _split(places: Collection[str], ref: str) -> tuple[str, list[str]]:
    """Return a ref's layer and indices; a layer may have colons in its own name."""
    parts = ref.split(":")
    count = next((count for count in range(len(parts), 0, -1) if _meant(places, ":".join(parts[:count]))), 1)
    return ":".join(parts[:count]), parts[count:]


def _find_layer(model: keras.Model, places: Collection[str], word: str) -> str:
    meant = _meant(places, word)
    if len(meant) > 1:
        raise AmbiguousLayer(f"Expected one of {', '.join(meant)}. Received: {word!r}, which means all of them.")
    if meant:
        return meant[0]
    own = order(model)  # indices count layers only, as model.layers[-2] does; places has bare operations too
    if _INDEX.fullmatch(word):
        if -len(own) <= int(word) < len(own):
            return own[int(word)]
        raise UnknownLayer(f"Expected a layer of {model.name} from {-len(own)} to {len(own) - 1}. Received: {word}.")
    near = nearest(word, [*places, *(where.rpartition("/")[2] for where in places)])
    raise UnknownLayer(
        f"Expected one of the {len(places)} layers of {model.name}. Received: {word!r}. {near} See microtome layers."
    )


def _indices(texts: list[str]) -> tuple[int, int] | None:
    if len(texts) > 2 or not all(text.isascii() and text.isdigit() for text in texts):
        return None
    call, output, *_ = [*(int(text) for text in texts), 0, 0]
    return call, output
