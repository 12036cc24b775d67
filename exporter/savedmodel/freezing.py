"""Turn a Keras slice into a frozen, flat graph, in float32, bfloat16 or float16.

Variables become constants, so TensorFlow can fold normalisations into convolutions; functions are inlined into the main
graph, so only the fetched outputs are computed. See docs/decisions/0010.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from exporter.errors import ImpossibleModel
from exporter.head.embedding import Head, whole_head
from exporter.head.projection import Fitted
from exporter.head.scaling import scale
from exporter.head.slicing import Slice
from exporter.runtime.memory import lean_session, release

INPUT = "images"
_KEEP = (keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Normalization)
"""Layers that see pixels stay in float32, which represents all 256 levels."""

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


def frozen_graph(slice_: Slice, projections: Mapping[str, Fitted], precision: str) -> FrozenGraph:
    """Freeze a slice as it will be served.

    Args:
        slice_: Computes in float32.
        projections: By output name.
        precision: `float32`, `bfloat16` or `float16`.

    Raises:
        ImpossibleModel: A layer does not exist in that precision.
    """
    frozen = freeze(_lowered(slice_, precision), whole_head(projections))
    if precision != "float32":
        frozen = _fold_weight_casts(frozen)
    release()
    return frozen


def _lowered(slice_: Slice, precision: str) -> Slice:
    """Return a copy of the slice whose layers compute in `precision`."""
    if precision == "float32":
        return slice_

    def clone(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, _KEEP):
            return type(layer).from_config(layer.get_config())
        return type(layer).from_config({**layer.get_config(), "dtype": f"mixed_{precision}"})

    try:
        model = keras.models.clone_model(slice_.model, clone_function=clone)
        model.set_weights(slice_.model.get_weights())
    except Exception as error:  # own layers may raise anything
        raise ImpossibleModel(
            f"Expected layers that can compute in {precision}. Received: {slice_.built.row.name}, of which Keras says: "
            f"{' '.join(str(error).split())[:200]} Say precision: float32."
        ) from error
    return replace(slice_, model=model)


def _fold_weight_casts(frozen: FrozenGraph) -> FrozenGraph:
    """Store each weight in the precision of its use: a cast of a float32 constant becomes a constant."""
    definition = tf.compat.v1.GraphDef()
    definition.CopyFrom(frozen.definition)
    by_name = {node.name: node for node in definition.node}
    for node in definition.node:
        source = node
        while source.op in ("Cast", "Identity") and source.input:
            source = by_name[source.input[0].partition(":")[0]]
        if node.op != "Cast" or source.op != "Const":
            continue
        dtype = tf.as_dtype(node.attr["DstT"].type)
        values = tf.make_ndarray(source.attr["value"].tensor).astype(dtype.as_numpy_dtype)
        folded = tf.compat.v1.NodeDef(name=node.name, op="Const")
        folded.attr["dtype"].type = dtype.as_datatype_enum
        # By hand, because make_tensor_proto writes halves as varints, which are larger than float32.
        tensor = folded.attr["value"].tensor
        tensor.dtype = dtype.as_datatype_enum
        tensor.tensor_shape.CopyFrom(tf.TensorShape(values.shape).as_proto())
        tensor.tensor_content = np.ascontiguousarray(values).tobytes()
        node.CopyFrom(folded)
    needed = [frozen.input, *frozen.outputs.values()]
    return replace(frozen, definition=tf.compat.v1.graph_util.extract_sub_graph(definition, needed))
