"""Cut a network into blocks that can be called one after the other.

A block takes what the blocks before it leave, by name, and leaves what those after it need: what it has made, and what
it merely passes on. So blocks chain as `tensors = block(tensors)` wherever the cuts are, also where several tensors
cross.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import keras

from exporter.anatomy.calls import Network, bits
from exporter.errors import ImpossibleSplit
from exporter.tensors import find_tensor, shortest_ref


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a network.

    Attributes:
        model: From named tensors to named tensors; shares its layers with the network that it was cut from.
        takes: Names of what it takes.
        gives: Names of what it gives.
        ends: The network's own tensors that those names stand for: what it takes, then what it gives.
    """

    model: keras.Model
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    ends: tuple[keras.KerasTensor, ...]


def split(model: keras.Model, refs: Sequence[str]) -> tuple[Block, ...]:
    """Cut a network at tensors, given in any order, into one block more.

    Raises:
        CutError: There is no such tensor, or two cuts are the same, or nothing is left before or after one.
    """
    network = Network(model)
    reached = {ref: network.needed[network.position(find_tensor(network.model, ref))] for ref in refs}
    everything = (1 << len(network.calls)) - 1
    # What is needed by another is smaller, so it comes first.
    ordered = sorted(refs, key=lambda ref: reached[ref].bit_count())
    done, borders = _entrance(network), [network.model.inputs]
    masks = [done]
    for ref in ordered:
        before, done = done, done | reached[ref]
        if done in (before, everything):
            raise ImpossibleSplit(
                f"Expected points with layers before, between and after them. Received: {', '.join(ordered)}, of which "
                f"{ref} adds no block. Leave it out."
            )
        masks.append(done)
        borders.append(network.crossing(done))
    masks.append(everything)
    borders.append(network.model.outputs)
    return tuple(
        _block(network, f"block{number}", masks[number] & ~masks[number - 1], takes, gives)
        for number, (takes, gives) in enumerate(itertools.pairwise(borders), start=1)
    )


def between(model: keras.Model, start: str, end: str) -> Block:
    """Return what lies between two tensors: it takes all that crosses at the first and gives the second.

    Raises:
        CutError: There is no such tensor, or the second does not follow from the first.
    """
    network = Network(model)
    first, last = (network.position(find_tensor(network.model, ref)) for ref in (start, end))
    if first == last or not (network.needed[last] >> first) & 1:
        raise ImpossibleSplit(f"Expected to: a layer that follows from {start}. Received: {end}, which does not.")
    inside = network.needed[last] & ~network.needed[first]
    wanted = {id(tensor) for index in bits(inside) for tensor in network.calls[index].inputs}
    takes = [tensor for tensor in network.crossing(network.needed[first]) if id(tensor) in wanted]
    return _block(network, "slice", inside & ~_entrance(network), takes, [find_tensor(network.model, end)])


def _entrance(network: Network) -> int:
    return sum(1 << index for index, call in enumerate(network.calls) if not call.inputs)


def _block(
    network: Network, name: str, inside: int, takes: Sequence[keras.KerasTensor], gives: Sequence[keras.KerasTensor]
) -> Block:
    entering = [_name(network, tensor) for tensor in takes]
    leaving = [_name(network, tensor) for tensor in gives]
    inputs = {
        word: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=word)
        for word, tensor in zip(entering, takes, strict=True)
    }
    tensors = dict(zip((id(tensor) for tensor in takes), inputs.values(), strict=True))
    for index in bits(inside):
        call = network.calls[index]
        tensors.update(zip((id(tensor) for tensor in call.outputs), call.again(tensors), strict=True))
    passed = {id(tensor) for tensor in takes}
    outputs = {
        # Keras wants every output to come of a layer, also one that is an input.
        word: keras.layers.Identity(name=f"pass_{word}")(tensors[id(tensor)])
        if id(tensor) in passed
        else tensors[id(tensor)]
        for word, tensor in zip(leaving, gives, strict=True)
    }
    return Block(keras.Model(inputs, outputs, name=name), tuple(entering), tuple(leaving), (*takes, *gives))


def _name(network: Network, tensor: keras.KerasTensor) -> str:
    """Return a tensor's name as signatures allow it."""
    call = network.calls[network.position(tensor)]
    output = [id(other) for other in call.outputs].index(id(tensor))
    return shortest_ref(call, output, network.calls_of(call.layer)).replace(":", "_")
