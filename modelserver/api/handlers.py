"""Predict, GetModelMetadata and GetModelStatus without a transport: from request message to response message."""

import time

import numpy as np
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from modelserver.batching.scheduler import Scheduler
from modelserver.errors import InvalidArgument
from modelserver.metrics import Metrics
from modelserver.models.catalogue import Catalogue
from modelserver.tensors.codec import encode
from modelserver.tensors.signatures import bind, find_signature

SIGNATURE_DEF = "signature_def"


class Predictor:
    """Answers ``PredictRequest`` messages.

    Args:
        catalogue: Finds the version.
        scheduler: Runs it.
        metrics: Records the time of the model.
        as_content: Whether tensors are sent as raw bytes instead of repeated values.
    """

    def __init__(self, catalogue: Catalogue, scheduler: Scheduler, metrics: Metrics, *, as_content: bool) -> None:
        self._catalogue = catalogue
        self._scheduler = scheduler
        self._metrics = metrics
        self._as_content = as_content

    async def predict(
        self, request: predict_pb2.PredictRequest, deadline: float | None = None
    ) -> predict_pb2.PredictResponse:
        """Answer one request.

        Args:
            request: The request.
            deadline: Time, by ``time.monotonic``, after which the caller does not wait.

        Returns:
            The outputs, with the version and the signature that computed them.

        Raises:
            ServingError: In the order of TensorFlow Serving's checks.
        """
        if not request.HasField("model_spec"):
            raise InvalidArgument("Missing ModelSpec")
        version = self._catalogue.find(request.model_spec)
        signature = find_signature(version.model.signatures, request.model_spec.signature_name)
        call = bind(signature, request.inputs, request.output_filter)
        began = time.monotonic()
        arrays = await self._scheduler.run(version, call.feeds, list(call.outputs.values()), deadline)
        self._metrics.computed(version.name, "Predict", time.monotonic() - began)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = version.name
        response.model_spec.version.value = version.number
        response.model_spec.signature_name = signature.key
        for alias, array in zip(call.outputs, arrays, strict=True):
            response.outputs[alias].CopyFrom(encode(np.asarray(array), as_content=self._as_content))
        return response


def model_metadata(
    catalogue: Catalogue, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Answer a ``GetModelMetadataRequest`` with all signatures of the requested version.

    Raises:
        InvalidArgument: No model_spec, or a field other than ``signature_def``.
        NotFound: The version is not loaded.
    """
    if not request.HasField("model_spec"):
        raise InvalidArgument("Missing ModelSpec")
    if not request.metadata_field:
        raise InvalidArgument("GetModelMetadataRequest must specify at least one metadata_field")
    for name in request.metadata_field:
        if name != SIGNATURE_DEF:
            raise InvalidArgument(f"Metadata field {name} is not supported")
    version = catalogue.find(request.model_spec)
    definitions = get_model_metadata_pb2.SignatureDefMap()
    for key, definition in version.model.signature_defs.items():
        definitions.signature_def[key].CopyFrom(definition)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = version.name
    response.model_spec.version.value = version.number
    response.metadata[SIGNATURE_DEF].Pack(definitions)
    return response


def model_status(
    catalogue: Catalogue, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """Answer a ``GetModelStatusRequest``; a version label is ignored, as in the real server.

    Raises:
        InvalidArgument: No model_spec.
        NotFound: The model or the version is unknown.
    """
    if not request.HasField("model_spec"):
        raise InvalidArgument("Missing ModelSpec")
    spec = request.model_spec
    number = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
    response = get_model_status_pb2.GetModelStatusResponse()
    for record in catalogue.records(spec.name, number):
        status = response.model_version_status.add(version=record.number, state=int(record.state))
        status.status.error_code = int(record.error.code) if record.error else 0
        status.status.error_message = record.error.message if record.error else ""
    return response
