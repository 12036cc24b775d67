"""Write TensorFlow Serving's own configuration files: one per version, three for the whole models directory.

The directory's files are made anew from the directory after every export, so that they always list what is there.
The keys are those of BatchingParameters, ModelServerConfig and MonitoringConfig.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path

from exporter.publication import models_with_versions
from exporter.warmup import batch_sizes

BATCHING_FILE = "batching_params.pbtxt"
MODELS_CONFIG = "models.config"
BATCHING_CONFIG = "batching.config"
MONITORING_CONFIG = "monitoring.config"

_TIMEOUT_MICROS = 2000
_ENQUEUED_BATCHES = 64

# With per-model parameters only the threads are taken from here.
_BATCHING = (
    "num_batch_threads { value: 4 }\n"
    f"batch_timeout_micros {{ value: {_TIMEOUT_MICROS} }}\n"
    f"max_enqueued_batches {{ value: {_ENQUEUED_BATCHES} }}\n"
)
_MONITORING = 'prometheus_config {\n  enable: true\n  path: "/monitoring/prometheus/metrics"\n}\n'


def batching_params(largest: int) -> str:
    """Return a version's `batching_params.pbtxt`: batches no larger, and no odder, than its warm-up has seen.

    Args:
        largest: The largest batch; also the last allowed size, or TensorFlow Serving refuses to load the model.
    """
    sizes = "".join(f"allowed_batch_sizes: {size}\n" for size in batch_sizes(largest))
    return (
        f"max_batch_size {{ value: {largest} }}\n"
        f"batch_timeout_micros {{ value: {_TIMEOUT_MICROS} }}\n"
        f"max_enqueued_batches {{ value: {_ENQUEUED_BATCHES} }}\n{sizes}"
    )


def write_serving_configuration(models: Path, served_from: Path | None = None) -> None:
    """Write `models.config`, `batching.config` and `monitoring.config` for a models directory.

    Each is replaced at once: a server that polls the file sees the old one or the new one.

    Args:
        models: The directory.
        served_from: The absolute path at which the model server will find it; None for where it is now.
    """
    handle = os.open(models, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # of two exports at once, the later writer has seen both models
        _replace(models / MODELS_CONFIG, _models_config(models, served_from or models.resolve()))
        _replace(models / BATCHING_CONFIG, _BATCHING)
        _replace(models / MONITORING_CONFIG, _MONITORING)
    finally:
        os.close(handle)


def _models_config(models: Path, root: Path) -> str:
    """List every model that has a version; a base path without one would keep the server from starting."""
    entries = [
        "  config {\n"
        f"    name: {json.dumps(name)}\n"
        f"    base_path: {json.dumps(str(root / name))}\n"
        '    model_platform: "tensorflow"\n'
        "  }\n"
        for name in models_with_versions(models)
    ]
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
