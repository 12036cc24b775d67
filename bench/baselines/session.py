"""A SavedModel in a TensorFlow session, which is how TensorFlow Serving runs it."""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


class Session:
    """Runs `serving_default`.

    Args:
        directory: Of the SavedModel, of TensorFlow 1's or of Keras' kind.
        threads: Within and between operations; 0 for one per core.
    """

    def __init__(self, directory: Path, threads: int) -> None:
        config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads)
        self._session: Any = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        with self._session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self._session, ["serve"], str(directory))
        signature = loaded.signature_def["serving_default"]
        (taken,) = signature.inputs.values()
        self._run = self._session.make_callable(
            [info.name for _, info in sorted(signature.outputs.items())], feed_list=[taken.name]
        )

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the first output's vectors of a batch."""
        vectors: NDArray[np.float32] = self._run(images)[0]
        return vectors
