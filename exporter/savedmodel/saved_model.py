"""Write a frozen graph as a SavedModel that describes itself, and load it as TensorFlow Serving does.

The format is TF1's, the only one with the nodes in the main graph; TF2 loads it too.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from exporter.errors import NoVersion
from exporter.runtime.memory import lean_session, release
from exporter.savedmodel.freezing import FrozenGraph
from microtome import tokenization

METHOD = "tensorflow/serving/predict"
SERVING = "serving_default"
MANIFEST = "manifest"
QUERY = "query"

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, tf.Tensor]


def write_saved_model(directory: Path, frozen: FrozenGraph, manifest: str, tokenizer: bytes = b"") -> None:
    """Write the SavedModel with its two signatures, or with the third that a text tower has.

    Args:
        directory: Must be empty.
        frozen: The graph; its outputs become those of `serving_default`.
        manifest: The answer of the signature `manifest`, once per number in its `query`. (TensorFlow Serving's batcher
            requires a batch dimension in every signature.)
        tokenizer: Of a text tower, compressed: its parts answer the numbers in the query of the signature `tokenizer`.
    """
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen.definition, name="")
        query = tf.compat.v1.placeholder(tf.int32, [None], name=f"{MANIFEST}/{QUERY}")
        answer = tf.fill(tf.shape(query), tf.constant(manifest), name=f"{MANIFEST}/answer")
        serving = tensors(graph, {frozen.input: frozen.input}), tensors(graph, frozen.outputs)
        signatures = {SERVING: serving, MANIFEST: ({QUERY: query}, {MANIFEST: answer})}
        if tokenizer:
            name = tokenization.SIGNATURE
            numbers = tf.compat.v1.placeholder(tf.int32, [None], name=f"{name}/{QUERY}")
            parts = tf.gather(tf.constant(tokenization.parts(tokenizer)), numbers, name=f"{name}/answer")
            signatures[name] = {QUERY: numbers}, {name: parts}
        save(directory, graph, signatures)


def tensors(graph: tf.Graph, nodes: Mapping[str, str]) -> Tensors:
    """Return the first output of some nodes of a graph."""
    return {name: graph.get_tensor_by_name(f"{node}:0") for name, node in nodes.items()}


def save(directory: Path, graph: tf.Graph, signatures: Mapping[str, tuple[Tensors, Tensors]]) -> None:
    """Write a graph of constants as a SavedModel.

    Args:
        directory: Must be empty.
        graph: The graph.
        signatures: Inputs and outputs, by signature name.
    """
    info = tf.compat.v1.saved_model.build_tensor_info
    definitions = {
        name: tf.compat.v1.saved_model.build_signature_def(
            inputs={key: info(tensor) for key, tensor in inputs.items()},
            outputs={key: info(tensor) for key, tensor in outputs.items()},
            method_name=METHOD,
        )
        for name, (inputs, outputs) in signatures.items()
    }
    builder = tf.compat.v1.saved_model.Builder(str(directory))
    with tf.compat.v1.Session(graph=graph) as session:
        builder.add_meta_graph_and_variables(
            session,
            [tf.saved_model.SERVING],
            signature_def_map=definitions,
            strip_default_attrs=True,  # servers of other releases may not know new attributes
        )
    builder.save()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version in a session.

    Attributes:
        directory: The version's directory.
        signatures: By name.
        operations: The kind of each node.
        functions: Names of the graph's functions; a frozen, flat graph has none.
        session: Holds the graph.
    """

    directory: Path
    signatures: Mapping[str, meta_graph_pb2.SignatureDef]
    operations: Sequence[str]
    functions: Sequence[str]
    session: tf.compat.v1.Session

    def run(self, inputs: Array, outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run a batch.

        Args:
            inputs: uint8 [N, H, W, channels], or int32 [N, T] for a text tower.
            outputs: Names of outputs; empty for all.

        Returns:
            float32 [N, ...], by output name.
        """
        signature = self.signatures[SERVING]
        fetches = {name: signature.outputs[name].name for name in outputs or signature.outputs}
        (taken,) = signature.inputs.values()
        answers: dict[str, Array] = self.session.run(fetches, {taken.name: inputs})
        return answers

    def manifests(self, count: int) -> list[bytes]:
        """Run the manifest signature for `count` copies."""
        return self.answered(MANIFEST, [0] * count)

    def answered(self, name: str, query: Sequence[int]) -> list[bytes]:
        """Run the signature `manifest`, or that of a text tower's tokenizer, once for each number."""
        signature = self.signatures[name]
        feeds = {signature.inputs[QUERY].name: np.array(query, np.int32)}
        return list(self.session.run(signature.outputs[name].name, feeds))


@contextlib.contextmanager
def loaded(directory: Path, *, threads: int = 0, gpu: bool = False) -> Iterator[Loaded]:
    """Load a version while the block runs.

    Args:
        directory: The version's.
        threads: Within an operation; 0 for the number of cores.
        gpu: Whether to run on the first GPU.

    Raises:
        NoVersion: There is no SavedModel.
    """
    with tf.Graph().as_default(), tf.compat.v1.Session(config=lean_session(threads=threads, gpu=gpu)) as session:
        try:
            meta = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(directory))
        except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
            raise NoVersion(
                f"Expected a version written by microtome export. Received: {directory}: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        signatures = _copied(meta)
        operations = [str(node.op) for node in meta.graph_def.node]
        functions = [str(function.signature.name) for function in meta.graph_def.library.function]
        del meta
        _drop_constants(session)
        release()  # the file's bytes, its message, and TensorFlow's first copies of the weights
        yield Loaded(directory, signatures, operations, functions, session)


def _copied(meta: tf.compat.v1.MetaGraphDef) -> Mapping[str, meta_graph_pb2.SignatureDef]:
    """Return copies of the signatures; a reference into the message would keep all of it in memory."""
    alone = meta_graph_pb2.MetaGraphDef()
    for name, signature in meta.signature_def.items():
        alone.signature_def[name].CopyFrom(signature)
    return dict(alone.signature_def)


def _drop_constants(session: tf.compat.v1.Session) -> None:
    """Give the session its graph now, and remove the constants from Python's copy, which is only used for names."""
    session._extend_graph()  # noqa: SLF001 -- TensorFlow is pinned; the first run would do it, and keep both copies
    for operation in session.graph.get_operations():
        if operation.type == "Const":
            operation._clear_attr("value")  # noqa: SLF001 -- as above
