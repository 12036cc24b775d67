"""Predict, GetModelMetadata and GetModelStatus without a transport: from request message to response message."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from google.protobuf.any_pb2 import Any as AnyMessage

from microtome.tfserving.v1 import serving_pb2 as pb
from modelserver.batching.scheduler import Scheduler
from modelserver.errors import InvalidArgument, ResourceExhausted
from modelserver.metrics import Metrics
from modelserver.models.catalogue import Catalogue
from modelserver.tensors.codec import encode
from modelserver.tensors.signatures import DEFAULT_SIGNATURE, bind, find_signature

SIGNATURE_DEF = "signature_def"
SIGNATURES_TYPE = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
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
        self, request: pb.PredictRequest, deadline: float | None, *, bulk: bool = False
    ) -> pb.PredictResponse:
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
        response = pb.PredictResponse()
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

    def metadata(self, request: pb.GetModelMetadataRequest) -> pb.GetModelMetadataResponse:
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
        definitions = pb.SignatureDefMap()
        for key, definition in version.model.signatures.items():
            definitions.signature_def[key].CopyFrom(definition)
        response = pb.GetModelMetadataResponse()
        response.model_spec.name = version.name
        response.model_spec.version.value = version.number
        packed = AnyMessage(type_url=SIGNATURES_TYPE, value=definitions.SerializeToString())
        response.metadata[SIGNATURE_DEF].CopyFrom(packed)
        return response

    def status(self, request: pb.GetModelStatusRequest) -> pb.GetModelStatusResponse:
        """Return the states of a model's versions; a version label is ignored, as in the real server.

        Raises:
            InvalidArgument: No model_spec.
            NotFound: The model or the version is unknown.
        """
        spec = _model_spec(request)
        number = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
        response = pb.GetModelStatusResponse()
        for record in self.catalogue.records(spec.name, number):
            state = cast("pb.ModelVersionStatus.State", record.state)
            status = response.model_version_status.add(version=record.number, state=state)
            if record.error:
                status.status.error_code = cast("pb.StatusProto.Code", record.error.code.value[0])
                status.status.error_message = record.error.message
            else:
                status.status.SetInParent()
            if record.version:
                status.engine = record.version.engine
        return response


def _model_spec(request: Any) -> pb.ModelSpec:  # noqa: ANN401 (three messages have one)
    if not request.HasField("model_spec"):
        raise InvalidArgument("Missing ModelSpec")
    spec: pb.ModelSpec = request.model_spec
    return spec
