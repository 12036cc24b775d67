"""Write a frozen graph as a SavedModel that TensorFlow Serving loads and that describes itself.

A SavedModel of the TF1 kind, because only there do the nodes stand in the main graph; TF2 loads it all the same.
"""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from exporter.freezing import INPUT, FrozenGraph

METHOD = "tensorflow/serving/predict"
SERVING = "serving_default"
MANIFEST = "manifest"
QUERY = "query"


def write_saved_model(directory: Path, frozen: FrozenGraph, manifest: str) -> None:
    """Write the SavedModel with its two signatures.

    Args:
        directory: Must be empty.
        frozen: The graph; its outputs become those of `serving_default`.
        manifest: What `manifest` answers, once for each number in its `query`. (TensorFlow Serving's batcher wants
            every signature to have a batch dimension.)
    """
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen.definition, name="")
        query = tf.compat.v1.placeholder(tf.int32, [None], name=f"{MANIFEST}/{QUERY}")
        answer = tf.fill(tf.shape(query), tf.constant(manifest), name=f"{MANIFEST}/answer")
        outputs = {name: graph.get_tensor_by_name(f"{node}:0") for name, node in frozen.outputs.items()}
        signatures = {
            SERVING: _signature({INPUT: graph.get_tensor_by_name(f"{frozen.input}:0")}, outputs),
            MANIFEST: _signature({QUERY: query}, {MANIFEST: answer}),
        }
        builder = tf.compat.v1.saved_model.Builder(str(directory))
        with tf.compat.v1.Session(graph=graph) as session:
            builder.add_meta_graph_and_variables(
                session,
                [tf.saved_model.SERVING],
                signature_def_map=signatures,
                strip_default_attrs=True,  # so that a server of another release does not stumble over new attributes
            )
        builder.save()


def _signature(inputs: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]) -> meta_graph_pb2.SignatureDef:
    build_info = tf.compat.v1.saved_model.build_tensor_info
    return tf.compat.v1.saved_model.build_signature_def(
        inputs={name: build_info(tensor) for name, tensor in inputs.items()},
        outputs={name: build_info(tensor) for name, tensor in outputs.items()},
        method_name=METHOD,
    )
