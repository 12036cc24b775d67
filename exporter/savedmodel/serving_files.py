"""Write TensorFlow Serving's own files: batching parameters and warm-up of a version, configuration of a directory.

The directory's three files are rewritten after every export, so that they list the models it has. Their keys are
those of BatchingParameters, ModelServerConfig and MonitoringConfig.

TensorFlow Serving runs the warm-up requests before it reports a version as available. One that fails keeps the version
from loading, so they are minimal: one black batch for each batch size. A value list of length one stands for the whole
tensor, which keeps a record at about forty bytes.
"""

import contextlib
import fcntl
import os
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from exporter.recipe.resolved import ModelRecipe
from exporter.savedmodel.freezing import INPUTS
from exporter.savedmodel.publication import models_with_versions, served_entry
from exporter.savedmodel.saved_model import SERVING

BATCHING_FILE = "batching_params.pbtxt"
MODELS_CONFIG = "models.config"
BATCHING_CONFIG = "batching.config"
MONITORING_CONFIG = "monitoring.config"

_TIMEOUT_MICROS = 500
"""Gateways batch by themselves: who waits longer waits for other gateways only."""

_ENQUEUED_BATCHES = 64

# With per-model parameters, TensorFlow Serving reads only the threads from here.
_BATCHING = (
    "num_batch_threads { value: 4 }\n"
    f"batch_timeout_micros {{ value: {_TIMEOUT_MICROS} }}\n"
    f"max_enqueued_batches {{ value: {_ENQUEUED_BATCHES} }}\n"
)
_MONITORING = 'prometheus_config {\n  enable: true\n  path: "/monitoring/prometheus/metrics"\n}\n'


def batching_params(largest: int) -> str:
    """Return a version's `batching_params.pbtxt`, with the batch sizes of its warm-up.

    Args:
        largest: The largest batch. It must be the last allowed size, or TensorFlow Serving refuses to load the model.
    """
    sizes = "".join(f"allowed_batch_sizes: {size}\n" for size in batch_sizes(largest))
    return (
        f"max_batch_size {{ value: {largest} }}\n"
        # Two requests of 20 are then computed as 32 and 8, not as 32 and 32 of which 24 are padding.
        "enable_large_batch_splitting { value: true }\n"
        f"max_execution_batch_size {{ value: {largest} }}\n"
        f"batch_timeout_micros {{ value: {_TIMEOUT_MICROS} }}\n"
        f"max_enqueued_batches {{ value: {_ENQUEUED_BATCHES} }}\n{sizes}"
    )


def write_serving_configuration(models: Path, served_from: Path | None = None) -> None:
    """Write `models.config`, `batching.config` and `monitoring.config` for a models directory.

    Each file is replaced atomically, for servers that poll it.

    Args:
        models: The directory.
        served_from: Its absolute path on the model server; None for its path here.
    """
    handle = os.open(models, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # of two concurrent exports, the later writer sees both models
        _replace(models / MODELS_CONFIG, _models_config(models, served_from or models.resolve()))
        _replace(models / BATCHING_CONFIG, _BATCHING)
        _replace(models / MONITORING_CONFIG, _MONITORING)
    finally:
        os.close(handle)


def _models_config(models: Path, root: Path) -> str:
    """List every model that has a version; the server does not start with a base path that has none."""
    entries = [served_entry(name, str(root / name)) for name in models_with_versions(models)]
    return "model_config_list {\n" + "".join(entries) + "}\n"


def _replace(path: Path, text: str) -> None:
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    draft = path.with_name(f".{path.name}.tmp")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()


WARMUP_FILE = "tf_serving_warmup_requests"


def batch_sizes(largest: int) -> list[int]:
    """Return 1 and the powers of two up to the largest batch, and the largest itself."""
    powers = [1 << exponent for exponent in range(largest.bit_length())]
    return sorted({*powers, largest})


def write_warmup(assets: Path, recipe: ModelRecipe) -> None:
    """Write the warm-up records: every batch size with all outputs, and every output alone.

    TensorFlow prunes the graph at the first request for each set of outputs; the warm-up pays for it instead of a
    caller.

    Args:
        assets: The SavedModel's `assets.extra`.
        recipe: The model's recipe.
    """
    requests = [_request(recipe, size) for size in batch_sizes(recipe.max_batch_size)]
    if len(recipe.outputs) > 1:
        requests += [_request(recipe, 1, output.name) for output in recipe.outputs]
    with tf.io.TFRecordWriter(str(assets / WARMUP_FILE)) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString(deterministic=True))


def _request(recipe: ModelRecipe, size: int, *outputs: str) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = recipe.name
    request.model_spec.signature_name = SERVING
    name, dtype = INPUTS[recipe.input.kind]
    request.inputs[name].CopyFrom(tf.make_tensor_proto(0, dtype, (size, *recipe.input.shape)))
    return request
