"""Predict, without a transport: from request message to answer message."""

import time

import numpy as np
from tensorflow_serving.apis import predict_pb2

from modelserver.catalogue import Catalogue
from modelserver.errors import InvalidArgument
from modelserver.metrics import Metrics
from modelserver.scheduler import Scheduler
from modelserver.signatures import bind, find_signature
from modelserver.tensor_encoding import encode


class Predictor:
    """Answers ``PredictRequest`` messages.

    Args:
        catalogue: Where models are found.
        scheduler: What runs them.
        metrics: Where the model's time is counted.
        as_content: Whether tensors leave as raw bytes instead of repeated values.
    """

    def __init__(self, catalogue: Catalogue, scheduler: Scheduler, metrics: Metrics, *, as_content: bool) -> None:
        self._catalogue = catalogue
        self._scheduler = scheduler
        self._metrics = metrics
        self._as_content = as_content

    async def predict(self, request: predict_pb2.PredictRequest, deadline: float | None) -> predict_pb2.PredictResponse:
        """Answer one request.

        Args:
            request: A ``tensorflow.serving.PredictRequest``.
            deadline: Time, by ``time.monotonic``, after which nobody waits any more.

        Returns:
            A ``tensorflow.serving.PredictResponse`` that tells the version and the signature it came from.

        Raises:
            ServingError: In the order of TensorFlow Serving's checks.
        """
        if not request.HasField("model_spec"):
            raise InvalidArgument("Missing ModelSpec")
        servable = self._catalogue.find(request.model_spec)
        signature = find_signature(servable.model.signatures, request.model_spec.signature_name)
        call = bind(signature, request.inputs, request.output_filter)
        began = time.monotonic()
        arrays = await self._scheduler.run(servable, call.feeds, list(call.outputs.values()), deadline)
        self._metrics.computed(servable.name, "Predict", time.monotonic() - began)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        response.model_spec.signature_name = signature.key
        for alias, array in zip(call.outputs, arrays, strict=True):
            encode(np.asarray(array), response.outputs[alias], as_content=self._as_content)
        return response
