"""Cut a network into blocks that can be called one after the other, save them and read them back.

A block takes the outputs of the block before it, by name, and returns what the blocks after it need: the tensors it
computes and those it passes on. So blocks chain as `tensors = block(tensors)` at any cut, also where several tensors
cross.
"""

import contextlib
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from exporter.errors import ImpossibleSplit
from exporter.graph.network import Network, bits, place
from exporter.graph.tensors import find_tensor, shortest_ref
from exporter.runtime.memory import lean_session
from exporter.savedmodel.freezing import freeze_function, named_for_scopes
from exporter.savedmodel.saved_model import SERVING, save, tensors

Arrays = Mapping[str, np.ndarray[Any, Any]]
FORMS = ("SavedModel", ".keras")
_SIGNED = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.-]*")
_UNSIGNED = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a network.

    Attributes:
        model: From named tensors to named tensors; shares its layers with the network.
        takes: Names of its inputs.
        gives: Names of its outputs.
        ends: The network's tensors of those names: inputs, then outputs.
    """

    model: keras.Model
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    ends: tuple[keras.KerasTensor, ...]


def split(model: keras.Model, refs: Sequence[str]) -> tuple[Block, ...]:
    """Cut a network at some tensors, in any order, into one block more than there are tensors.

    Raises:
        CutError: A tensor does not exist, two cuts are the same, or nothing is left before or after one.
    """
    network = Network(model)
    reached = {ref: network.needed[network.position(find_tensor(network.model, ref))] for ref in refs}
    everything = (1 << len(network.calls)) - 1
    # A tensor that another depends on depends on fewer calls.
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
    """Return the part between two tensors: it takes all tensors that cross at the first and returns the second.

    Raises:
        CutError: A tensor does not exist, or the second does not depend on the first.
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
        # Keras requires every output to come from a layer, also an input that is passed on.
        word: keras.layers.Identity(name=f"pass_{word}")(tensors[id(tensor)])
        if id(tensor) in passed
        else tensors[id(tensor)]
        for word, tensor in zip(leaving, gives, strict=True)
    }
    return Block(keras.Model(inputs, outputs, name=name), tuple(entering), tuple(leaving), (*takes, *gives))


def _name(network: Network, tensor: keras.KerasTensor) -> str:
    """Return a tensor's name in the characters that signatures allow, with a digest where others are left out."""
    call = network.calls[network.position(tensor)]
    output = [id(other) for other in call.outputs].index(id(tensor))
    ref = shortest_ref(call, output, network.calls_of(call.layer))
    name = ref.replace(":", "_").replace("/", ".")
    others = {place(other.layer).replace("/", ".") for other in network.calls if other.layer is not call.layer}
    plain = "/" not in ref or name not in others
    if _SIGNED.fullmatch(name) and ":" not in call.layer.name and plain:
        return name
    # Two layers must not get the same name, such as those of two words in another alphabet.
    return f"tensor_{_UNSIGNED.sub('_', name)}_{hashlib.sha256(ref.encode()).hexdigest()[:6]}"


def write_block(directory: Path, block: Block) -> None:
    """Write `<name>/`, a frozen, flat SavedModel with the block's names in its signature, and `<name>.keras`."""
    block.model.save(directory / f"{block.model.name}.keras")
    _write_saved_model(directory / block.model.name, block)


@contextlib.contextmanager
def read_chain(directory: Path, names: Sequence[str], form: str) -> Iterator[Callable[[Arrays], Iterator[Arrays]]]:
    """Read blocks in one of the `FORMS`, as a function from the first block's inputs to the outputs of each in turn."""
    read = _read_saved_model if form == "SavedModel" else _read_keras
    with contextlib.ExitStack() as opened:
        steps = [opened.enter_context(read(directory, name)) for name in names]

        def chain(tensors: Arrays) -> Iterator[Arrays]:
            for step in steps:
                tensors = step(tensors)
                yield tensors

        yield chain


@contextlib.contextmanager
def _read_saved_model(directory: Path, name: str) -> Iterator[Callable[[Arrays], Arrays]]:
    """Load a block into a session, as TensorFlow Serving does; TF2's loader takes several times as long."""
    with tf.Graph().as_default(), tf.compat.v1.Session(config=lean_session()) as session:
        meta = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(directory / name))
        signature = meta.signature_def[SERVING]
        fetches = {name: info.name for name, info in signature.outputs.items()}

        def run(tensors: Arrays) -> Arrays:
            found: Arrays = session.run(fetches, {signature.inputs[name].name: tensors[name] for name in tensors})
            return found

        yield run


@contextlib.contextmanager
def _read_keras(directory: Path, name: str) -> Iterator[Callable[[Arrays], Arrays]]:
    model = keras.saving.load_model(directory / f"{name}.keras", compile=False)
    yield lambda tensors: {name: np.asarray(tensor) for name, tensor in model(dict(tensors), training=False).items()}


def _write_saved_model(directory: Path, block: Block) -> None:
    taken = {name: block.model.input[name] for name in block.takes}
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype, name=name) for name, tensor in taken.items()]

    def run(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        found: dict[str, tf.Tensor] = block.model(dict(zip(block.takes, arguments, strict=True)), training=False)
        return found

    with named_for_scopes(block.model):
        definition, outputs = freeze_function(run, specs)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(definition, name="")
        inputs = tensors(graph, {name: name for name in block.takes})
        save(directory, graph, {SERVING: (inputs, tensors(graph, outputs))})
