"""Compute in bfloat16 or float16: half the memory to move, at the price of digits that are measured and told."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf

from exporter.errors import ImpossibleModel
from exporter.freezing import FrozenGraph
from exporter.slicing import Slice

_KEEP = (keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Normalization)
"""These see pixels, whose 256 levels deserve all their digits."""


def lowered(slice_: Slice, precision: str) -> Slice:
    """Return the slice with its layers computing in `precision`, weights and all.

    Args:
        slice_: Computes in float32, and is left as it is.
        precision: `float32`, `bfloat16` or `float16`.

    Raises:
        ImpossibleModel: A layer cannot be made anew in that precision.
    """
    if precision == "float32":
        return slice_

    def clone(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, _KEEP):
            return type(layer).from_config(layer.get_config())
        return type(layer).from_config({**layer.get_config(), "dtype": f"mixed_{precision}"})

    try:
        model = keras.models.clone_model(slice_.model, clone_function=clone)
        model.set_weights(slice_.model.get_weights())
    except Exception as error:  # a layer of the user's own may refuse in any way
        raise ImpossibleModel(
            f"Expected layers that can compute in {precision}. Received: {slice_.built.row.name}, of which Keras says: "
            f"{' '.join(str(error).split())[:200]} Say precision: float32."
        ) from error
    return replace(slice_, model=model)


def fold_weight_casts(frozen: FrozenGraph) -> FrozenGraph:
    """Store each weight as it is used: a float32 constant that is only ever cast becomes the result of the cast."""
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
        # Spelt out, because make_tensor_proto writes halves as varints, which take up more room than float32.
        tensor = folded.attr["value"].tensor
        tensor.dtype = dtype.as_datatype_enum
        tensor.tensor_shape.CopyFrom(tf.TensorShape(values.shape).as_proto())
        tensor.tensor_content = np.ascontiguousarray(values).tobytes()
        node.CopyFrom(folded)
    needed = [frozen.input, *frozen.outputs.values()]
    return replace(frozen, definition=tf.compat.v1.graph_util.extract_sub_graph(definition, needed))
