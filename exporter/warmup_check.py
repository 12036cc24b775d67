"""Check that TensorFlow Serving will run a version's warm-up records: one that fails keeps it from loading."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from exporter.findings import Finding, expect
from exporter.loaded import Loaded
from exporter.publication import ASSETS
from exporter.warmup import FILE

_MOST_IMAGES = 2


def check_warmup(version: Loaded) -> Finding:
    """Hold every record against its signature, and run the small ones as TensorFlow Serving will run all.

    Larger batches differ from one of two images in nothing but their size. Running them too would take longer than
    all the rest of the verification, and gigabytes where the input is large.
    """
    path = version.directory / ASSETS / FILE
    name = "warm-up records run"
    sizes = []
    try:
        for request in _requests(str(path)):
            sizes.append(_size(version, request))
            if sizes[-1] <= _MOST_IMAGES:
                _run(version, request)
    except (tf.errors.OpError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        return Finding(name, False, f"Expected warm-up records that run. Received: {path}: {said}.")
    run = sum(size <= _MOST_IMAGES for size in sizes)
    said = f"{len(sizes)} records by the signature, {run} of them run"
    return expect(name, run > 0, said, f"Expected warm-up records. Received: none of one image in {path}.")


def _requests(path: str) -> Iterator[predict_pb2.PredictRequest]:
    for record in tf.compat.v1.io.tf_record_iterator(path):
        yield prediction_log_pb2.PredictionLog.FromString(record).predict_log.request


def _size(version: Loaded, request: predict_pb2.PredictRequest) -> int:
    """Return how many images a request has, if all of it is as its signature wants it."""
    signature = version.signatures[request.model_spec.signature_name]
    sizes = set()
    for name, info in signature.inputs.items():
        given = request.inputs[name]
        wanted, received = tf.TensorShape(info.tensor_shape), tf.TensorShape(given.tensor_shape)
        if given.dtype != info.dtype or not wanted.is_compatible_with(received):
            raise ValueError(f"{name} of {received}, where the signature takes {wanted}")
        sizes.add(int(received[0]))
    (size,) = sizes
    return size


def _run(version: Loaded, request: predict_pb2.PredictRequest) -> None:
    signature = version.signatures[request.model_spec.signature_name]
    fetches = [signature.outputs[name].name for name in request.output_filter or signature.outputs]
    feeds = {signature.inputs[name].name: tf.make_ndarray(value) for name, value in request.inputs.items()}
    version.session.run(fetches, feeds)
