"""Freeze a slice in float32, bfloat16 or float16; lower precision halves memory traffic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf

from exporter.errors import ImpossibleModel
from exporter.head.embedding import whole_head
from exporter.head.projection import Fitted
from exporter.head.slicing import Slice
from exporter.runtime.memory import release
from exporter.savedmodel.freezing import FrozenGraph, freeze

_KEEP = (keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Normalization)
"""Layers that see pixels stay in float32, which represents all 256 levels."""


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
