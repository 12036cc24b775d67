"""A written version, loaded afresh into the runtime that TensorFlow Serving uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from exporter.errors import NoVersion
from exporter.freezing import INPUT
from exporter.memory import give_back
from exporter.saved_model import MANIFEST, QUERY, SERVING

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version in a session.

    Attributes:
        directory: Where it lies.
        meta: Its graph and signatures.
        session: Holds the graph.
    """

    directory: Path
    meta: tf.compat.v1.MetaGraphDef
    session: tf.compat.v1.Session

    def run(self, pixels: Array, outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run a batch.

        Args:
            pixels: uint8 [N, H, W, 3].
            outputs: Names; all of them for none.

        Returns:
            By output name, float32 [N, ...].
        """
        signature = self.meta.signature_def[SERVING]
        fetches = {name: signature.outputs[name].name for name in outputs or signature.outputs}
        answers: dict[str, Array] = self.session.run(fetches, {signature.inputs[INPUT].name: pixels})
        return answers

    def manifests(self, count: int) -> list[bytes]:
        """Ask the manifest signature for `count` copies."""
        signature = self.meta.signature_def[MANIFEST]
        feeds = {signature.inputs[QUERY].name: np.zeros(count, np.int32)}
        return list(self.session.run(signature.outputs[MANIFEST].name, feeds))


@contextlib.contextmanager
def loaded(directory: Path) -> Iterator[Loaded]:
    """Load a version for as long as the block runs.

    Raises:
        NoVersion: There is no SavedModel.
    """
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        try:
            meta = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(directory))
        except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
            raise NoVersion(
                f"Expected a version written by microtome export. Received: {directory}: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        give_back()  # the file, its text, and TensorFlow's first copies of the weights
        yield Loaded(directory, meta, session)
