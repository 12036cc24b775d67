"""A written version, loaded afresh into the runtime that TensorFlow Serving uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from exporter.errors import NoVersion
from exporter.freezing import INPUT
from exporter.memory import give_back
from exporter.saved_model import MANIFEST, QUERY, SERVING
from exporter.sessions import lean

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version in a session.

    Attributes:
        directory: Where it lies.
        signatures: By name.
        operations: The kind of each of its nodes.
        functions: Their names; there ought to be none.
        session: Holds the graph.
    """

    directory: Path
    signatures: Mapping[str, meta_graph_pb2.SignatureDef]
    operations: Sequence[str]
    functions: Sequence[str]
    session: tf.compat.v1.Session

    def run(self, pixels: Array, outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run a batch.

        Args:
            pixels: uint8 [N, H, W, 3].
            outputs: Names; all of them for none.

        Returns:
            By output name, float32 [N, ...].
        """
        signature = self.signatures[SERVING]
        fetches = {name: signature.outputs[name].name for name in outputs or signature.outputs}
        answers: dict[str, Array] = self.session.run(fetches, {signature.inputs[INPUT].name: pixels})
        return answers

    def manifests(self, count: int) -> list[bytes]:
        """Ask the manifest signature for `count` copies."""
        signature = self.signatures[MANIFEST]
        feeds = {signature.inputs[QUERY].name: np.zeros(count, np.int32)}
        return list(self.session.run(signature.outputs[MANIFEST].name, feeds))


@contextlib.contextmanager
def loaded(directory: Path) -> Iterator[Loaded]:
    """Load a version for as long as the block runs.

    Raises:
        NoVersion: There is no SavedModel.
    """
    with tf.Graph().as_default(), tf.compat.v1.Session(config=lean()) as session:
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
        _hand_over(session)
        give_back()  # the file, its text, and TensorFlow's first copies of the weights
        yield Loaded(directory, signatures, operations, functions, session)


def _copied(meta: tf.compat.v1.MetaGraphDef) -> Mapping[str, meta_graph_pb2.SignatureDef]:
    """Return the signatures without the rest: as long as any part of a message is there, all of it stays in memory."""
    alone = meta_graph_pb2.MetaGraphDef()
    for name, signature in meta.signature_def.items():
        alone.signature_def[name].CopyFrom(signature)
    return dict(alone.signature_def)


def _hand_over(session: tf.compat.v1.Session) -> None:
    """Give the session its graph now, and take the constants out of Python's own copy of it, which only names nodes."""
    session._extend_graph()  # noqa: SLF001 -- TensorFlow is pinned; the first run would do it, and keep both copies
    for operation in session.graph.get_operations():
        if operation.type == "Const":
            operation._clear_attr("value")  # noqa: SLF001 -- as above
