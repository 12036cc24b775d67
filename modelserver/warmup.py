"""Runs a version's own warm-up requests before it is announced as available.

The records stand in ``assets.extra/tf_serving_warmup_requests``: a TFRecord file of ``PredictionLog`` messages. One
that fails, fails the load: better a version that never starts than one that cannot answer.
"""

import logging
import time
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from modelserver.batch_limits import BatchLimits
from modelserver.batch_queue import BatchQueue
from modelserver.batch_run import count_rows, run_batch
from modelserver.engine import LoadedModel
from modelserver.errors import DataLoss, InvalidArgument, Unimplemented
from modelserver.signatures import bind, find_signature

log = logging.getLogger(__name__)

RECORDS = Path("assets.extra", "tf_serving_warmup_requests")
MOST_RECORDS = 1000


def warm_up(model: LoadedModel, version_dir: Path, limits: BatchLimits | None = None, *, iterations: int = 1) -> int:
    """Execute every warm-up record; a missing file is fine.

    Args:
        model: The version, loaded.
        version_dir: Its directory.
        limits: How its requests are batched; warm-up requests are padded and refused as those are.
        iterations: How often each record runs.

    Returns:
        How many records ran.

    Raises:
        ServingError: A record failed, or the file is damaged or too long.
    """
    path = version_dir / RECORDS
    if not path.is_file():
        return 0
    started, count = time.monotonic(), 0
    try:
        for count, record in enumerate(tf.compat.v1.io.tf_record_iterator(str(path)), start=1):
            if count > MOST_RECORDS:
                raise InvalidArgument(f"Number of warmup records exceeds the maximum ({MOST_RECORDS}) at {path}")
            for _ in range(max(iterations, 1)):
                _execute(model, prediction_log_pb2.PredictionLog.FromString(record), limits)
    except tf.errors.DataLossError as error:
        raise DataLoss(f"{error.message}. Please verify your warmup data is in TFRecord format.") from error
    log.info("Warmed up %s with %d records in %.2f s", version_dir, count, time.monotonic() - started)
    return count


def _execute(model: LoadedModel, record: prediction_log_pb2.PredictionLog, limits: BatchLimits | None) -> None:
    kind = record.WhichOneof("log_type")
    if kind != "predict_log":
        raise Unimplemented(f"Unsupported log_type for warmup: {kind}")
    request = record.predict_log.request
    signature = find_signature(model.signatures, request.model_spec.signature_name)
    call = bind(signature, request.inputs, request.output_filter)
    if limits:
        BatchQueue(limits).admit(count_rows(call.feeds))
    run_batch(model, [call.feeds], list(call.outputs.values()), limits)
