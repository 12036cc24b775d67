"""Find the tensors of a backbone by name: list first, cut second.

Keras answers `layer.output` with the output of the layer's first call, also when there were several, so a bare name
is accepted only where it can mean one tensor; `layer:call` and `layer:call:output` always do.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras

from exporter.errors import AmbiguousLayer, UnknownLayer, nearest


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One tensor that a backbone can be cut at.

    Attributes:
        ref: What a recipe calls it: `layer`, or `layer:call` or `layer:call:output` where a bare name would not do.
        kind: The layer's class.
        shape: Of the tensor; None for the batch and for sizes that are not fixed.
    """

    ref: str
    kind: str
    shape: tuple[int | None, ...]


def list_layers(model: keras.Model) -> list[LayerRow]:
    """List every tensor that the model can be cut at, in the order of the layers."""
    rows = []
    for layer in model.layers:
        calls = _calls(model, layer)
        for call, outputs in enumerate(calls):
            for index, tensor in enumerate(outputs):
                ref = _shortest_ref(layer.name, call, index, len(calls), len(outputs))
                rows.append(LayerRow(ref, type(layer).__name__, tuple(tensor.shape)))
    return rows


def find_tensor(model: keras.Model, ref: str) -> keras.KerasTensor:
    """Return the Keras tensor that a recipe's `layer` means.

    Raises:
        UnknownLayer: The model has no such layer, call or output.
        AmbiguousLayer: The layer is called more than once, or has more than one output, and which is not said.
    """
    name, *indices = ref.split(":")
    by_name = {layer.name: layer for layer in model.layers}
    if name not in by_name:
        raise UnknownLayer(
            f"Expected one of the {len(by_name)} layers of {model.name}. Received: {name!r}. {nearest(name, by_name)} "
            "See microtome layers."
        )
    calls = _calls(model, by_name[name])
    refs = [
        _shortest_ref(name, call, index, len(calls), len(outputs))
        for call, outputs in enumerate(calls)
        for index in range(len(outputs))
    ]
    if not indices and len(refs) > 1:
        raise AmbiguousLayer(f"Expected one of {', '.join(refs)}. Received: {name!r}, which means all of them.")
    call, index = _indices(indices)
    if call is None or call >= len(calls) or index >= len(calls[call]):
        raise UnknownLayer(f"Expected one of {', '.join(refs)}. Received: {ref!r}.")
    return calls[call][index]


def _indices(texts: list[str]) -> tuple[int | None, int]:
    if len(texts) > 2 or not all(text.isascii() and text.isdigit() for text in texts):
        return None, 0
    call, index, *_ = [*(int(text) for text in texts), 0, 0]
    return call, index


def _calls(model: keras.Model, layer: keras.Layer) -> list[list[keras.KerasTensor]]:
    """Return the output tensors of each call of the layer within this model."""
    # Keras has no public way to tell the calls of a layer apart, nor those of this model from those of others.
    within = {id(node) for nodes in model._nodes_by_depth.values() for node in nodes}  # noqa: SLF001
    return [list(node.output_tensors) for node in layer._inbound_nodes if id(node) in within]  # noqa: SLF001


def _shortest_ref(name: str, call: int, index: int, calls: int, outputs: int) -> str:
    if outputs > 1:
        return f"{name}:{call}:{index}"
    return f"{name}:{call}" if calls > 1 else name
