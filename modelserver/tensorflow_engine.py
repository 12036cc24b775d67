"""Executes SavedModels with TensorFlow, on the same runtime that TensorFlow Serving uses: a ``DirectSession``.

A session, and not ``tf.saved_model.load``, because it is what the real server runs, loads eight times faster (0.07
against 0.57 s for MobileNetV2), and answers one image in 11.8 against 12.8 ms (equal at batch 32).
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from modelserver.errors import Code, NotFound, ResourceExhausted, ServingError
from modelserver.signatures import Signature, read_signature
from modelserver.tensor_decoding import Array

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # must be set before TensorFlow is imported

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2

CALLABLES_KEPT = 32
"""Every set of outputs has its own executor, with its own folded constants: clients must not make them without end."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How sessions compute; zero threads means as many as there are cores."""

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    mixed_precision: str = ""
    tags: tuple[str, ...] = ("serve",)


class TensorFlowEngine:
    """Loads SavedModels into sessions."""

    def __init__(self, settings: SessionSettings) -> None:
        tf.get_logger().setLevel("ERROR")
        self._settings = settings

    def load(self, path: Path) -> "TensorFlowModel":
        """Read the SavedModel in ``path``; see ``Engine.load``."""
        if not any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
            raise NotFound(
                "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
                f"`saved_model.pb`)\nSpecified file path: {path}"
            )
        session = tf.compat.v1.Session(graph=tf.Graph(), config=self._config())
        try:
            with _tensorflow_errors(), session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.loader.load(session, list(self._settings.tags), str(path))
        except BaseException:
            session.close()
            raise
        return TensorFlowModel(session, dict(meta_graph.signature_def.items()))

    def _config(self) -> config_pb2.ConfigProto:
        config = config_pb2.ConfigProto(
            intra_op_parallelism_threads=self._settings.intra_op_threads,
            inter_op_parallelism_threads=self._settings.inter_op_threads,
        )
        config.gpu_options.allow_growth = True
        if self._settings.mixed_precision == "bfloat16":
            rewrites = config.graph_options.rewrite_options
            rewrites.auto_mixed_precision_onednn_bfloat16 = rewriter_config_pb2.RewriterConfig.ON
        return config


class TensorFlowModel:
    """One SavedModel in one session."""

    def __init__(self, session: tf.compat.v1.Session, signature_defs: Mapping[str, Any]) -> None:
        self.signature_defs = signature_defs
        self.signatures: Mapping[str, Signature] = {
            key: read_signature(key, definition) for key, definition in signature_defs.items()
        }
        self._session = session
        self._callables: OrderedDict[tuple[tuple[str, ...], tuple[str, ...]], Callable[..., list[Array]]] = (
            OrderedDict()
        )
        self._lock = Lock()

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """Compute the fetched tensors; see ``LoadedModel.run``."""
        with _tensorflow_errors():
            call = self._callable(tuple(feeds), tuple(fetches))
            return call(*feeds.values())

    def close(self) -> None:
        """Free the memory; see ``LoadedModel.close``."""
        with self._lock:
            self._callables.clear()
        self._session.close()

    def _callable(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Callable[..., list[Array]]:
        """Return the executor for these tensors, made on first use.

        A private method of the session, because the public ``Session.run`` and ``make_callable`` refuse every shape
        that the signature does not have ("Cannot feed value of shape"), which TensorFlow Serving does not.
        """
        key = (feeds, fetches)
        with self._lock:
            call = self._callables.get(key)
            if call is None:
                options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
                call = self._callables[key] = self._session._make_callable_from_options(options)  # noqa: SLF001
            self._callables.move_to_end(key)
            if len(self._callables) > CALLABLES_KEPT:
                self._callables.popitem(last=False)
        return call


@contextmanager
def _tensorflow_errors() -> Iterator[None]:
    """Turn what TensorFlow raises into what we answer."""
    try:
        yield
    except tf.errors.OpError as error:
        raise ServingError(Code(error.error_code), error.message or type(error).__name__) from error
    except MemoryError as error:
        raise ResourceExhausted("OOM when running the model") from error
