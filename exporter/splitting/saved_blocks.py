"""Write blocks as SavedModels and as `.keras` files, and run a chain of what was written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from exporter.freezing import constants_in, functions_inlined
from exporter.saved_model import METHOD, SERVING
from exporter.sessions import lean
from exporter.splitting.blocks import Block

Tensors = Mapping[str, tf.Tensor]
Arrays = Mapping[str, np.ndarray[Any, Any]]
FORMS = ("SavedModel", ".keras")


def write_block(directory: Path, block: Block) -> None:
    """Write `<name>/`, a frozen, flat SavedModel whose signature has the block's names, and `<name>.keras`."""
    block.model.save(directory / f"{block.model.name}.keras")
    _write_saved_model(directory / block.model.name, block)


@contextlib.contextmanager
def read_chain(directory: Path, names: Sequence[str], form: str) -> Iterator[Callable[[Arrays], Iterator[Arrays]]]:
    """Read blocks back, in one of the `FORMS`, as one function from the first's tensors to what leaves each in turn."""
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
    """Load a block into a session, as TensorFlow Serving does; TF2's loader would take several times as long."""
    with tf.Graph().as_default(), tf.compat.v1.Session(config=lean()) as session:
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
        _save(directory, graph, inputs, outputs)


def _save(directory: Path, graph: tf.Graph, inputs: Tensors, outputs: Tensors) -> None:
    info = tf.compat.v1.saved_model.build_tensor_info
    signature = tf.compat.v1.saved_model.build_signature_def(
        inputs={name: info(tensor) for name, tensor in inputs.items()},
        outputs={name: info(tensor) for name, tensor in outputs.items()},
        method_name=METHOD,
    )
    builder = tf.compat.v1.saved_model.Builder(str(directory))
    with tf.compat.v1.Session(graph=graph) as session:
        builder.add_meta_graph_and_variables(
            session, [tf.saved_model.SERVING], signature_def_map={SERVING: signature}, strip_default_attrs=True
        )
    builder.save()
