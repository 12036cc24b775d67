"""Import TensorFlow for a command: on the CPU, as Keras' backend, without its native log lines.

TensorFlow's C++ code logs devices and optimisation passes to stderr whatever the log level is, because it logs before
logging is initialised. Only the file descriptor distinguishes its output from Python's: descriptor 2 is pointed at a
temporary file, while `sys.stderr` keeps the real one.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from exporter.errors import ExporterError
from exporter.runtime.terminal import stage

_STDERR = 2


@contextlib.contextmanager
def tensorflow_ready(*, gpu: bool = False) -> Iterator[None]:
    """Import TensorFlow with fixed settings, whatever the user's are, and hide native log lines during the block.

    Args:
        gpu: Whether a GPU may be used, for training; nothing else is computed there.
    """
    with native_stderr_hidden():
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        if not gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # TF32 on a GPU exceeds the error that we promise
        os.environ["KERAS_BACKEND"] = "tensorflow"
        with stage("Loading TensorFlow"):
            import keras  # noqa: PLC0415 -- takes seconds; commands check their arguments first
            import tensorflow as tf  # noqa: PLC0415

        tf.get_logger().setLevel("ERROR")
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
        yield


@contextlib.contextmanager
def native_stderr_hidden() -> Iterator[None]:
    """Hide native output on stderr while the block runs; print it if the block raises an unexpected exception."""
    sys.stderr.flush()
    python_stderr = sys.stderr
    real = os.dup(_STDERR)
    with tempfile.TemporaryFile() as hidden, os.fdopen(real, "w", buffering=1, encoding="utf-8") as stderr:
        os.dup2(hidden.fileno(), _STDERR)
        sys.stderr = stderr
        try:
            yield
        except (ExporterError, KeyboardInterrupt):
            raise
        except BaseException:
            hidden.seek(0)
            stderr.write(hidden.read().decode(errors="replace"))
            raise
        finally:
            stderr.flush()
            os.dup2(stderr.fileno(), _STDERR)
            sys.stderr = python_stderr
