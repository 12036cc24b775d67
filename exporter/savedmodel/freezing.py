"""Turn a Keras slice into a frozen, flat graph.

Variables become constants, so TensorFlow can fold normalisations into convolutions; functions are inlined into the main
graph, so only the fetched outputs are computed. See docs/decisions/0010.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from exporter.head.embedding import Head
from exporter.head.scaling import scale
from exporter.head.slicing import Slice
from exporter.runtime.memory import lean_session

INPUT = "images"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class FrozenGraph:
    """A graph without variables and functions.

    Attributes:
        definition: Its nodes.
        input: Name of the input node, uint8 [N, H, W, 3].
        outputs: Name of each output's node, float32 [N, ...].
    """

    definition: tf.compat.v1.GraphDef
    input: str
    outputs: dict[str, str]

    @contextlib.contextmanager
    def session(self, *, threads: int = 0) -> Iterator[Callable[[Array], dict[str, Array]]]:
        """Open a session while the block runs, as a function from pixels to all outputs by name.

        Args:
            threads: Within an operation; 0 for the number of cores.
        """
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(self.definition, name="")
            fetches = {name: f"{node}:0" for name, node in self.outputs.items()}
            with tf.compat.v1.Session(graph=graph, config=lean_session(threads=threads)) as session:
                yield lambda pixels: session.run(fetches, {f"{self.input}:0": pixels})


def freeze(slice_: Slice, head: Head) -> FrozenGraph:
    """Freeze a slice together with its scaling and its head.

    Args:
        slice_: Its outputs become the graph's.
        head: Computes each output.
    """
    scaling, pixels = slice_.built.row.scaling, slice_.pixels

    def embed(images: tf.Tensor) -> dict[str, tf.Tensor]:
        with functions_inlined():
            features = slice_.model(scale(images, scaling), training=False)
        return {output.recipe.name: head(features, output) for output in slice_.outputs}

    signature = [tf.TensorSpec([None, pixels.height, pixels.width, 3], tf.uint8, name=INPUT)]
    traced = tf.function(embed, input_signature=signature).get_concrete_function()
    # A traced function flattens its outputs: a dict in the order of its keys.
    names = sorted(traced.structured_outputs)
    return _named(constants_in(traced), dict(zip(names, (tensor.name for tensor in traced.outputs), strict=True)))


def constants_in(traced: Callable[..., object]) -> tf.compat.v1.GraphDef:
    """Return a concrete function's graph with its variables as constants and its functions inlined.

    These are the two halves of `convert_variables_to_constants_v2` without the function that it builds at the end,
    which holds the weights eight times.
    """
    data = convert_to_constants._FunctionConverterDataInEager(  # noqa: SLF001 -- TensorFlow is pinned: see above
        func=traced, lower_control_flow=True, aggressive_inlining=True
    )
    return convert_to_constants._replace_variables_by_constants(data)[0]  # noqa: SLF001


@contextlib.contextmanager
def functions_inlined() -> Iterator[None]:
    """Trace functions within the model inline.

    Keras wraps grouped convolutions (ConvNeXt) in functions that XLA must compile, because of their gradients.
    Freezing does not inline those, and a model server without XLA cannot run them.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _named(constants: tf.compat.v1.GraphDef, tensors: dict[str, str]) -> FrozenGraph:
    """Move the nodes to a main graph, name the outputs, and drop unused nodes."""
    outputs = {name: f"outputs/{name}" for name in tensors}
    with tf.Graph().as_default() as graph:
        ends = tf.import_graph_def(constants, name="", return_elements=list(tensors.values()))
        for name, end in zip(tensors, ends, strict=True):
            tf.identity(end, name=outputs[name])
    definition = tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), [INPUT, *outputs.values()])
    return FrozenGraph(definition, INPUT, outputs)
