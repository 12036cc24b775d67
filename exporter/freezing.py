"""Turn a Keras slice into a frozen, flat graph.

Variables become constants, which lets TensorFlow fold normalisations into convolutions, and functions are inlined
into the main graph, which lets it run only what is fetched: see docs/decisions on frozen and flat graphs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from exporter.scaling import scale
from exporter.slicing import Slice, SliceOutput

INPUT = "images"

Head = Callable[[Mapping[str, tf.Tensor], SliceOutput], tf.Tensor]
"""Turns the cut layers' features, by layer, into one output."""


@dataclass(frozen=True, slots=True)
class FrozenGraph:
    """A graph without variables and functions.

    Attributes:
        definition: Its nodes.
        input: Name of the node that takes uint8 [N, H, W, 3].
        outputs: Name of the node that gives each output, float32 [N, ...].
    """

    definition: tf.compat.v1.GraphDef
    input: str
    outputs: dict[str, str]


def freeze(slice_: Slice, head: Head) -> FrozenGraph:
    """Freeze a slice together with its scaling and what follows its layers.

    Args:
        slice_: What to freeze; its outputs become the graph's.
        head: What each output is made of.
    """
    scaling, pixels = slice_.built.row.scaling, slice_.pixels

    def embed(images: tf.Tensor) -> dict[str, tf.Tensor]:
        with functions_inlined():
            features = slice_.model(scale(images, scaling), training=False)
        return {output.recipe.name: head(features, output) for output in slice_.outputs}

    signature = [tf.TensorSpec([None, pixels.height, pixels.width, 3], tf.uint8, name=INPUT)]
    traced = tf.function(embed, input_signature=signature).get_concrete_function()
    frozen = convert_variables_to_constants_v2(traced, aggressive_inlining=True)
    # The frozen function gives its outputs flattened, which for a dict means in the order of its keys.
    names = sorted(traced.structured_outputs)
    return _flatten(frozen.graph, dict(zip(names, frozen.outputs, strict=True)))


@contextlib.contextmanager
def functions_inlined() -> Iterator[None]:
    """Let functions within the model leave their nodes where they are called.

    Keras wraps grouped convolutions (ConvNeXt) in functions that XLA must compile, for the sake of their gradients.
    Freezing does not inline those, and a model server without XLA does not run them.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _flatten(function: tf.Graph, tensors: dict[str, tf.Tensor]) -> FrozenGraph:
    """Move the function's nodes to a main graph, give the outputs names of ours, and drop what nothing needs."""
    outputs = {name: f"outputs/{name}" for name in tensors}
    with tf.Graph().as_default() as graph:
        ends = tf.import_graph_def(
            function.as_graph_def(), name="", return_elements=[tensor.name for tensor in tensors.values()]
        )
        for name, end in zip(tensors, ends, strict=True):
            tf.identity(end, name=outputs[name])
    definition = tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), [INPUT, *outputs.values()])
    return FrozenGraph(definition, INPUT, outputs)
