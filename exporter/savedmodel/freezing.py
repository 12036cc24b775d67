"""Turn a Keras slice into a frozen, flat graph, in float32, bfloat16 or float16.

Variables become constants and functions are inlined into the main graph, so only the fetched outputs are computed. See
docs/decisions/0010.
"""

import contextlib
import re
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
from exporter.savedmodel.folding import constant, fold_batch_norms, without_order

INPUTS: Mapping[str, tuple[str, str]] = {"image": ("images", "uint8"), "tokens": ("tokens", "int32")}
"""The name and element type of a graph's input, by the kind of the manifest's."""
_KEEP = (keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Normalization)
"""Layers that see pixels stay in float32, which represents all 256 levels."""
_SCOPE = re.compile(r"[A-Za-z0-9_.\\/>-]*")
"""TensorFlow's rule for names within a scope."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class FrozenGraph:
    """A graph without variables and functions.

    Attributes:
        definition: Its nodes.
        outputs: Name of each output's node, float32 [N, ...].
        input: Name of the input's node: `images`, uint8 [N, H, W, channels], or `tokens`, int32 [N, T].
    """

    definition: tf.compat.v1.GraphDef
    outputs: dict[str, str]
    input: str = "images"

    @contextlib.contextmanager
    def session(self, *, threads: int = 0) -> Iterator[Callable[[Array], dict[str, Array]]]:
        """Open a session while the block runs, as a function from its input to all outputs by name.

        Args:
            threads: Within an operation; 0 for the number of cores.
        """
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(self.definition, name="")
            fetches = {name: f"{node}:0" for name, node in self.outputs.items()}
            with tf.compat.v1.Session(graph=graph, config=lean_session(threads=threads)) as session:
                yield lambda inputs: session.run(fetches, {f"{self.input}:0": inputs})


def freeze(slice_: Slice, head: Head, *, folded: bool = True) -> FrozenGraph:
    """Freeze a slice together with its scaling and its head.

    Args:
        slice_: Its outputs become the graph's.
        head: Computes each output.
        folded: Whether batch norms are folded into the weights, as in every export.
    """
    scaling = slice_.built.row.scaling

    def embed(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        features = slice_.model(scale(inputs, scaling), training=False)
        return {output.recipe.name: head(features, output) for output in slice_.outputs}

    name, dtype = INPUTS[slice_.input.kind]
    signature = [tf.TensorSpec([None, *slice_.input.shape], dtype, name=name)]
    with named_for_scopes(slice_.model):
        return FrozenGraph(*freeze_function(embed, signature, folded=folded), name)


@contextlib.contextmanager
def named_for_scopes(model: keras.Model) -> Iterator[None]:
    """Give layers other names while the block runs, where Keras allows theirs and TensorFlow's scopes do not.

    Such as `block1 conv a`, `stem:0` or `畳み込2`. Names of nodes are neither in signatures nor in the fingerprint.
    """
    named = [(layer, layer.name) for layer in model._flatten_layers() if not _SCOPE.fullmatch(layer.name)]  # noqa: SLF001
    try:
        for number, (layer, _) in enumerate(named):
            layer.name = f"layer_{number}"
        yield
    finally:
        for layer, name in named:
            layer.name = name


def freeze_function(
    function: Callable[..., dict[str, tf.Tensor]], signature: list[tf.TensorSpec], *, folded: bool = True
) -> tuple[tf.compat.v1.GraphDef, dict[str, str]]:
    """Return a function's frozen, flat graph, and the name of the node of each output.

    The graph's variables are constants and its functions are inlined by the two halves of
    `convert_variables_to_constants_v2`, without the function that it builds at the end, which holds the weights eight
    times.

    Args:
        function: From tensors to named tensors.
        signature: Its arguments; their names become those of the input nodes.
        folded: Whether batch norms are folded into the weights.
    """

    def inlined(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        with _functions_inlined():
            return function(*arguments)

    traced = tf.function(inlined, input_signature=signature).get_concrete_function()
    data = convert_to_constants._FunctionConverterDataInEager(  # noqa: SLF001 -- TensorFlow is pinned
        func=traced, lower_control_flow=True, aggressive_inlining=True
    )
    constants = convert_to_constants._replace_variables_by_constants(data)[0]  # noqa: SLF001
    # A traced function flattens its outputs: a dict in the order of its keys.
    outputs = {name: f"outputs/{name}" for name in sorted(traced.structured_outputs)}
    with tf.Graph().as_default() as graph:
        ends = tf.import_graph_def(constants, name="", return_elements=[tensor.name for tensor in traced.outputs])
        for node, end in zip(outputs.values(), ends, strict=True):
            tf.identity(end, name=node)
    definition = graph.as_graph_def()
    del constants, traced, data, graph
    if folded:
        fold_batch_norms(definition)
    needed = [*(spec.name for spec in signature), *outputs.values()]
    return tf.compat.v1.graph_util.extract_sub_graph(definition, needed), outputs


@contextlib.contextmanager
def _functions_inlined() -> Iterator[None]:
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


def frozen_graph(
    slice_: Slice, projections: Mapping[str, Fitted], precision: str, *, folded: bool = True
) -> FrozenGraph:
    """Freeze a slice as it will be served.

    Args:
        slice_: Computes in float32.
        projections: By output name.
        precision: `float32`, `bfloat16` or `float16`.
        folded: False for the graph of versions from before folding, whose fingerprints are still verified.

    Raises:
        ImpossibleModel: A layer does not exist in that precision.
    """
    frozen = freeze(_lowered(slice_, precision), whole_head(projections), folded=folded)
    if precision != "float32":
        frozen = _fold_weight_casts(frozen, ordered=not folded)
    release()
    return frozen


def _lowered(slice_: Slice, precision: str) -> Slice:
    """Return a copy of the slice whose layers compute in `precision`."""
    if precision == "float32":
        return slice_

    def clone(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, _KEEP) or not isinstance(layer, keras.Layer):  # sums of keras.ops have no precision
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


def _fold_weight_casts(frozen: FrozenGraph, *, ordered: bool) -> FrozenGraph:
    """Store each weight in the precision of its use alone: a cast of a float32 constant becomes a constant.

    Args:
        frozen: The graph.
        ordered: Whether the function's control inputs stay, and with them the float32 weights.
    """
    definition = tf.compat.v1.GraphDef()
    definition.CopyFrom(frozen.definition)
    by_name = {node.name: node for node in definition.node}
    for node in definition.node:
        source = node
        while source.op in ("Cast", "Identity") and source.input:
            source = by_name[source.input[0].partition(":")[0]]
        if node.op == "Cast" and source.op == "Const":
            values = tf.make_ndarray(source.attr["value"].tensor)
            node.CopyFrom(constant(node.name, values, tf.as_dtype(node.attr["DstT"].type)))
    if not ordered:
        without_order(definition)
    needed = [frozen.input, *frozen.outputs.values()]
    return replace(frozen, definition=tf.compat.v1.graph_util.extract_sub_graph(definition, needed))
