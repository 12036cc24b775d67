"""Predict, GetModelMetadata and GetModelStatus without a transport: from request message to response message."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2, predict_pb2

from modelserver.batching.scheduler import Scheduler
from modelserver.errors import InvalidArgument, ResourceExhausted
from modelserver.metrics import Metrics
from modelserver.models.catalogue import Catalogue
from modelserver.tensors.codec import encode
from modelserver.tensors.signatures import DEFAULT_SIGNATURE, bind, find_signature

SIGNATURE_DEF = "signature_def"
UNKNOWN_MODEL = "(unknown)"
"""Counts the requests for names that no model ever had."""


@dataclass(slots=True)
class Handlers:
    """Answers requests.

    Attributes:
        catalogue: Finds the version.
        scheduler: Runs it.
        metrics: Records calls, and the time of the model.
        as_content: Whether tensors are sent as raw bytes instead of repeated values.
        most_bytes: Of the decoded inputs of all requests at a time; a single request is never too large.
    """

    catalogue: Catalogue
    scheduler: Scheduler
    metrics: Metrics
    as_content: bool
    most_bytes: int
    _held: int = 0

    async def predict(
        self, request: predict_pb2.PredictRequest, deadline: float | None, *, bulk: bool = False
    ) -> predict_pb2.PredictResponse:
        """Compute outputs.

        Args:
            request: The request.
            deadline: Time, by ``time.monotonic``, after which the caller does not wait.
            bulk: Whether requests that are not bulk go first.

        Returns:
            The outputs, with the version and the signature that computed them.

        Raises:
            ServingError: In the order of TensorFlow Serving's checks.
            ResourceExhausted: The inputs take too much memory, alone or with those of other requests.
        """
        version = self.catalogue.find(_model_spec(request))
        signature = find_signature(version.model.signatures, request.model_spec.signature_name)
        feeds, outputs = bind(signature, request.inputs, request.output_filter, version.bounds)
        began = time.monotonic()
        with self._holding(sum(array.nbytes for array in feeds.values())):
            arrays = await self.scheduler.run(version, feeds, list(outputs.values()), deadline, bulk=bulk)
        self.metrics.computed(version.name, "Predict", time.monotonic() - began)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = version.name
        response.model_spec.version.value = version.number
        response.model_spec.signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        for alias, array in zip(outputs, arrays, strict=True):
            response.outputs[alias].CopyFrom(encode(np.asarray(array), as_content=self.as_content))
        return response

    def call(self, model: str, method: str) -> AbstractContextManager[None]:
        """Count a ``with`` block as one call. Unknown names are counted together: each would stay in memory."""
        return self.metrics.call(self.known(model), method)

    def known(self, model: str) -> str:
        """Return a model's name for metrics."""
        return model if model in self.catalogue.models else UNKNOWN_MODEL

    @contextmanager
    def _holding(self, size: int) -> Iterator[None]:
        """Count the inputs of a request while it waits and runs: a few bytes each may be as many gigabytes together."""
        if self._held and self._held + size > self.most_bytes:
            raise ResourceExhausted(
                f"The requests in flight hold {self._held} bytes, and this one {size}; expected at most "
                f"{self.most_bytes} together. Try again later"
            )
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Return all signatures of the requested version.

        Raises:
            InvalidArgument: No model_spec, or a field other than ``signature_def``.
            NotFound: The version is not loaded.
        """
        spec = _model_spec(request)
        if not request.metadata_field:
            raise InvalidArgument("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != SIGNATURE_DEF:
                raise InvalidArgument(f"Metadata field {name} is not supported")
        version = self.catalogue.find(spec)
        definitions = get_model_metadata_pb2.SignatureDefMap()
        for key, definition in version.model.signatures.items():
            definitions.signature_def[key].CopyFrom(definition)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = version.name
        response.model_spec.version.value = version.number
        response.metadata[SIGNATURE_DEF].Pack(definitions)
        return response

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Return the states of a model's versions; a version label is ignored, as in the real server.

        Raises:
            InvalidArgument: No model_spec.
            NotFound: The model or the version is unknown.
        """
        spec = _model_spec(request)
        number = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
        response = get_model_status_pb2.GetModelStatusResponse()
        for record in self.catalogue.records(spec.name, number):
            status = response.model_version_status.add(version=record.number, state=int(record.state))
            if record.error:
                status.status.error_code = record.error.code.value[0]
                status.status.error_message = record.error.message
            else:
                status.status.SetInParent()
        return response


def _model_spec(request: Any) -> model_pb2.ModelSpec:  # noqa: ANN401 (three messages have one)
    if not request.HasField("model_spec"):
        raise InvalidArgument("Missing ModelSpec")
    spec: model_pb2.ModelSpec = request.model_spec
    return spec
