"""Predict, without a transport: from request message to answer message."""

import time

import numpy as np

from modelserver.catalogue import Catalogue
from modelserver.errors import InvalidArgument
from modelserver.metrics import Metrics
from modelserver.predict_answer import write_answer
from modelserver.predict_request import Request
from modelserver.scheduler import Scheduler
from modelserver.signatures import Call, Signature, bind, find_signature


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

    async def predict(self, request: Request, deadline: float | None) -> bytes:
        """Answer one request.

        Args:
            request: What is asked.
            deadline: Time, by ``time.monotonic``, after which nobody waits any more.

        Returns:
            A serialised ``tensorflow.serving.PredictResponse`` that tells the version and the signature it came from.

        Raises:
            ServingError: In the order of TensorFlow Serving's checks.
        """
        message = request.head.message
        if not message.HasField("model_spec"):
            raise InvalidArgument("Missing ModelSpec")
        servable = self._catalogue.find(message.model_spec)
        signature = find_signature(servable.model.signatures, message.model_spec.signature_name)
        call = _fit(request, signature)
        began = time.monotonic()
        arrays = await self._scheduler.run(servable, call.feeds, list(call.outputs.values()), deadline)
        self._metrics.computed(servable.name, "Predict", time.monotonic() - began)
        outputs = {alias: np.asarray(array) for alias, array in zip(call.outputs, arrays, strict=True)}
        return write_answer(servable.name, servable.version, signature.key, outputs, as_content=self._as_content)


def _fit(request: Request, signature: Signature) -> Call:
    """Fit a request to a signature, as the last of its kind was fitted: they differ in nothing that is checked."""
    head = request.head
    if head.lifted is None:
        return bind(signature, head.message.inputs, head.message.output_filter)
    tensor = signature.inputs[head.lifted].tensor if head.lifted in signature.inputs else ""
    if head.fitted and head.fitted[0] is signature:
        return head.fitted[1].with_content(tensor, request.content)
    call = bind(signature, head.message.inputs, head.message.output_filter, {head.lifted: request.content})
    head.fitted = signature, call.without_content(tensor)
    return call
