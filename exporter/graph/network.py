"""A functional Keras model as the graph of its calls.

Keras keeps a node for every call of a layer, in this model or in another one, and has no public way to distinguish
them; only this module uses its private attributes.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of one layer within a model.

    Attributes:
        layer: The layer; a bare `keras.Operation` where the model uses `keras.ops`.
        call: Index among the layer's calls within the model.
        inputs: Input tensors, in order.
        outputs: Output tensors, in order.
    """

    layer: keras.Operation
    call: int
    inputs: tuple[keras.KerasTensor, ...]
    outputs: tuple[keras.KerasTensor, ...]
    _arguments: Any

    @property
    def kind(self) -> str:
        """The layer's class."""
        return type(self.layer).__name__

    @property
    def training(self) -> bool | None:
        """The mode that the call itself asks for, as in `base(images, training=False)`."""
        found = self._arguments.kwargs.get("training")
        return None if found is None else bool(found)

    @property
    def inner(self) -> keras.Model | None:
        """The functional model that is called, if its calls can be made one by one in place of it."""
        layer = self.layer
        if not isinstance(layer, keras.Model) or not type(layer).call.__module__.startswith("keras.src.models."):
            return None  # a layer, or a subclass that computes in Python
        inner = functional(layer)
        ordered = len(self.inputs) == 1 or isinstance(next(iter(self._arguments.args), None), list | tuple)
        return inner if ordered and len(getattr(inner, "inputs", ())) == len(self.inputs) else None

    def arguments(self, tensors: Mapping[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what the call passes on, with other tensors.

        Args:
            tensors: Replacements, by the identity of the tensor that each replaces.
        """
        args, kwargs = self._arguments.fill_in(tensors)
        return tuple(args), dict(kwargs)

    def own_arguments(self, tensors: Mapping[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what the layer's own `call` takes in inference, with other tensors; see `arguments`."""
        args, kwargs = self.arguments(tensors)
        kwargs.pop("training", None)  # which Keras takes away where `call` does not have it
        if "training" in inspect.signature(self.layer.call).parameters:
            kwargs["training"] = False
        return args, kwargs

    def again(self, tensors: Mapping[int, Any], training: bool | None = None) -> list[keras.KerasTensor]:
        """Repeat the call on other symbolic tensors.

        Args:
            tensors: Replacements, by the identity of the tensor that each replaces.
            training: The mode of the model around it, where that and not the call says one.
        """
        args, kwargs = self.arguments(tensors)
        if training is not None and getattr(self.layer, "_call_has_training_arg", False):
            kwargs.setdefault("training", training)
        return list(keras.tree.flatten(self.layer(*args, **kwargs)))

    def compute(self, tensors: Mapping[int, Any]) -> list[Any]:
        """Repeat the call on tensors with values, in inference mode."""
        args, kwargs = self.arguments(tensors)
        if "training" in getattr(self.layer, "_call_context_args", ()):  # as Keras does; operations have none
            kwargs["training"] = False
        return list(keras.tree.flatten(self.layer(*args, **kwargs)))


class Network:
    """The calls of a model in topological order.

    Attributes:
        model: The model, made functional.
        calls: Its calls.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = functional(model)
        self.calls = tuple(_calls(self.model))
        self._maker = {id(tensor): index for index, call in enumerate(self.calls) for tensor in call.outputs}

    def position(self, tensor: keras.KerasTensor) -> int:
        """Return the index of the call that returns this tensor."""
        return self._maker[id(tensor)]

    def calls_of(self, layer: keras.Operation) -> list[Call]:
        """Return the calls of a layer within this model, in the order they were made."""
        return sorted(self._by_layer.get(id(layer), []), key=lambda call: call.call)

    @cached_property
    def _by_layer(self) -> dict[int, list[Call]]:
        found: dict[int, list[Call]] = {}
        for call in self.calls:
            found.setdefault(id(call.layer), []).append(call)
        return found

    @cached_property
    def needed(self) -> tuple[int, ...]:
        """For each call, itself and the calls that it depends on, as a bit mask: a cheap set of hundreds."""
        masks: list[int] = []
        for index, call in enumerate(self.calls):
            mask = 1 << index
            for tensor in call.inputs:
                mask |= masks[self.position(tensor)]
            masks.append(mask)
        return tuple(masks)

    @cached_property
    def takers(self) -> tuple[int, ...]:
        """For each call, the calls that take one of its tensors, as a bit mask."""
        masks = [0] * len(self.calls)
        for index, call in enumerate(self.calls):
            for tensor in call.inputs:
                masks[self.position(tensor)] |= 1 << index
        return tuple(masks)

    def crossing(self, done: int) -> list[keras.KerasTensor]:
        """Return the tensors that leave a set of calls: inputs of another call, or outputs of the model.

        Args:
            done: The calls, as a bit mask.
        """
        wanted = {id(tensor) for tensor in self.model.outputs}
        wanted.update(id(tensor) for index in bits(~done & self._everything) for tensor in self.calls[index].inputs)
        return [tensor for index in bits(done) for tensor in self.calls[index].outputs if id(tensor) in wanted]

    @cached_property
    def _everything(self) -> int:
        return (1 << len(self.calls)) - 1


def functional(model: keras.Model) -> keras.Model:
    """Return the functional model inside a Sequential one; any other model unchanged."""
    return model._functional if isinstance(model, keras.Sequential) else model  # noqa: SLF001


def place(layer: keras.Operation) -> str:
    """Return where a layer is: its name, or `base/conv1` for the layer conv1 of the model base within the model."""
    return str(getattr(layer, "_microtome_place", layer.name))


def put(layer: keras.Operation, where: str, name: str) -> None:
    """Say where a layer is, and give it a name that no other layer of the model has."""
    layer._microtome_place, layer.name = where, name  # noqa: SLF001 -- Keras has no place for it


def ends_of(tensor: keras.KerasTensor) -> tuple[tuple[str, int, int], ...]:
    """Return the models within the model that a tensor is an output of: place, call and output of each."""
    return getattr(tensor, "_microtome_ends", ())


def put_end(tensor: keras.KerasTensor, where: str, call: int, output: int) -> None:
    """Say that a tensor is an output of a model within the model."""
    tensor._microtome_ends = (*ends_of(tensor), (where, call, output))  # noqa: SLF001 -- as in `put`


def order(model: keras.Model) -> tuple[str, ...]:
    """Return the places of a model's own layers, in the order of `model.layers` before models within it were opened."""
    return getattr(model, "_microtome_order", None) or tuple(place(layer) for layer in functional(model).layers)


def put_order(model: keras.Model, places: tuple[str, ...]) -> None:
    """Say which layers and models the model had."""
    model._microtome_order = places  # noqa: SLF001 -- as in `put`


def prefix_tokens(model: keras.Model) -> int | None:
    """Return how many tokens come before those of the patches (class and registers); None where that is unknown."""
    found: int | None = getattr(functional(model), "_microtome_prefix", None)
    return found


def put_prefix_tokens(model: keras.Model, count: int | None) -> None:
    """Say how many tokens come before those of the patches."""
    model._microtome_prefix = count  # noqa: SLF001 -- as in `put`


def bits(mask: int) -> Iterator[int]:
    """Yield the positions of the set bits, lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _calls(model: keras.Model) -> Iterator[Call]:
    by_depth = model._nodes_by_depth  # noqa: SLF001 -- see the module's docstring
    within = {id(node) for nodes in by_depth.values() for node in nodes}
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            layer = node.operation
            earlier = [id(other) for other in layer._inbound_nodes if id(other) in within]  # noqa: SLF001
            yield Call(
                layer, earlier.index(id(node)), tuple(node.input_tensors), tuple(node.output_tensors), node.arguments
            )
