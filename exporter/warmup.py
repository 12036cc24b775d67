"""Write the requests that TensorFlow Serving runs through a model before it says that the model is available.

A record that fails keeps the whole version from loading, so these are the plainest possible: one black batch for
each batch size. A value list of length one stands for the whole tensor, which keeps a record at some forty bytes.
"""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from exporter.freezing import INPUT
from exporter.recipe import ModelRecipe
from exporter.saved_model import SERVING

FILE = "tf_serving_warmup_requests"


def batch_sizes(largest: int) -> list[int]:
    """Return 1 and the powers of two up to the largest batch, and the largest itself."""
    powers = [1 << exponent for exponent in range(largest.bit_length())]
    return sorted({*powers, largest})


def write_warmup(assets: Path, recipe: ModelRecipe) -> None:
    """Write the warm-up records: every batch size with all outputs, and every output alone.

    TensorFlow prunes the graph anew for each set of outputs that it is first asked for; the record with that output
    alone pays for it, so that no caller does.

    Args:
        assets: The SavedModel's `assets.extra`.
        recipe: Its entry.
    """
    requests = [_request(recipe, size) for size in batch_sizes(recipe.max_batch_size)]
    if len(recipe.outputs) > 1:
        requests += [_request(recipe, 1, output.name) for output in recipe.outputs]
    with tf.io.TFRecordWriter(str(assets / FILE)) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString(deterministic=True))


def _request(recipe: ModelRecipe, size: int, *outputs: str) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = recipe.name
    request.model_spec.signature_name = SERVING
    tensor = request.inputs[INPUT]
    tensor.dtype = tf.uint8.as_datatype_enum
    for side in (size, recipe.input.height, recipe.input.width, 3):
        tensor.tensor_shape.dim.add(size=side)
    tensor.int_val.append(0)
    return request
