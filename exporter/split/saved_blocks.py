"""Write blocks as SavedModels and as `.keras` files, read them back, and run them as a chain."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from exporter.runtime.memory import lean_session
from exporter.savedmodel.freezing import constants_in, functions_inlined
from exporter.savedmodel.saved_model import SERVING, save
from exporter.split.blocks import Block

Arrays = Mapping[str, np.ndarray[Any, Any]]
FORMS = ("SavedModel", ".keras")


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
    tensors = [block.model.input[name] for name in block.takes]
    signature = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=name) for name, tensor in zip(block.takes, tensors, strict=True)
    ]

    def run(*arguments: tf.Tensor) -> list[tf.Tensor]:
        with functions_inlined():
            given = block.model(dict(zip(block.takes, arguments, strict=True)), training=False)
        return [given[name] for name in block.gives]

    traced = tf.function(run, input_signature=signature).get_concrete_function()
    ends = [*(f"{name}:0" for name in block.takes), *(tensor.name for tensor in traced.outputs)]
    constants = constants_in(traced)
    with tf.Graph().as_default() as graph:
        found = iter(tf.import_graph_def(constants, name="", return_elements=ends))
        inputs = {name: next(found) for name in block.takes}
        outputs = {name: tf.identity(next(found), name=f"gives/{name}") for name in block.gives}
        save(directory, graph, {SERVING: (inputs, outputs)})
