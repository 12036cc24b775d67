"""Write the requests that TensorFlow Serving runs through a model before it says that the model is available.

A record that fails keeps the whole version from loading, so these are the plainest possible: one black batch for
each batch size. A value list of length one stands for the whole tensor, which keeps a record at some forty bytes.
"""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from exporter.freezing import INPUT
from exporter.preprocessing import Preprocessing
from exporter.saved_model import SERVING

FILE = "tf_serving_warmup_requests"


def batch_sizes(largest: int) -> list[int]:
    """Return 1 and the powers of two up to the largest batch, and the largest itself."""
    powers = [1 << exponent for exponent in range(largest.bit_length())]
    return sorted({*powers, largest})


def write_warmup(assets: Path, model: str, pixels: Preprocessing, largest: int) -> None:
    """Write the warm-up records.

    Args:
        assets: The SavedModel's `assets.extra`.
        model: The model's name.
        pixels: The size of the input.
        largest: Largest batch that the model is served with.
    """
    with tf.io.TFRecordWriter(str(assets / FILE)) as writer:
        for size in batch_sizes(largest):
            log = prediction_log_pb2.PredictLog(request=_request(model, pixels, size))
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString(deterministic=True))


def _request(model: str, pixels: Preprocessing, size: int) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = SERVING
    tensor = request.inputs[INPUT]
    tensor.dtype = tf.uint8.as_datatype_enum
    for side in (size, pixels.height, pixels.width, 3):
        tensor.tensor_shape.dim.add(size=side)
    tensor.int_val.append(0)
    return request
