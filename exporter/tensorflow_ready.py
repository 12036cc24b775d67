"""Load TensorFlow the way every command wants it: quiet, on the CPU, as Keras' backend."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from exporter.progress import stage
from exporter.quiet import native_noise_withheld


@contextlib.contextmanager
def tensorflow_ready() -> Iterator[None]:
    """Import TensorFlow, whatever the user's own settings are, and withhold its native noise during the block."""
    with native_noise_withheld():
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # a GPU's arithmetic (TF32) differs by more than we promise
        os.environ["KERAS_BACKEND"] = "tensorflow"
        with stage("Loading TensorFlow"):
            import keras  # noqa: PLC0415 -- takes seconds; commands answer mistakes before
            import tensorflow as tf  # noqa: PLC0415

        tf.get_logger().setLevel("ERROR")
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
        yield
