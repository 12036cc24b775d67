"""Turn a Keras slice into a frozen, flat graph.

Variables become constants, which lets TensorFlow fold normalisations into convolutions, and functions are inlined
into the main graph, which lets it run only what is fetched: see docs/decisions on frozen and flat graphs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

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
    # The traced function gives its outputs flattened, which for a dict means in the order of its keys.
    names = sorted(traced.structured_outputs)
    return _named(constants_in(traced), dict(zip(names, (tensor.name for tensor in traced.outputs), strict=True)))


def constants_in(traced: Callable[..., object]) -> tf.compat.v1.GraphDef:
    """Return a concrete function's graph with its variables as constants and its functions inlined.

    The two halves of `convert_variables_to_constants_v2`, without the function that it makes of the graph in the end:
    nobody wants that one, and it and its registration hold the weights eight times over.
    """
    data = convert_to_constants._FunctionConverterDataInEager(  # noqa: SLF001 -- TensorFlow is pinned: see above
        func=traced, lower_control_flow=True, aggressive_inlining=True
    )
    return convert_to_constants._replace_variables_by_constants(data)[0]  # noqa: SLF001


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


def _named(constants: tf.compat.v1.GraphDef, tensors: dict[str, str]) -> FrozenGraph:
    """Move the nodes to a main graph, give the outputs names of ours, and drop what nothing needs."""
    outputs = {name: f"outputs/{name}" for name in tensors}
    with tf.Graph().as_default() as graph:
        ends = tf.import_graph_def(constants, name="", return_elements=list(tensors.values()))
        for name, end in zip(tensors, ends, strict=True):
            tf.identity(end, name=outputs[name])
    definition = tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), [INPUT, *outputs.values()])
    return FrozenGraph(definition, INPUT, outputs)
