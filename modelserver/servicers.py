"""The gRPC face: TensorFlow Serving's two services, each method one sentence over the core.

Methods have their names on the wire.
"""

import time
from typing import Any, TypeAlias

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    regression_pb2,
)

from modelserver.catalogue import Catalogue
from modelserver.errors import Unimplemented
from modelserver.grpc_statuses import answering
from modelserver.metadata import model_metadata, model_status
from modelserver.metrics import Metrics
from modelserver.predict_request import Request
from modelserver.prediction import Predictor
from modelserver.reload import Reloader

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class PredictionServicer:
    """``tensorflow.serving.PredictionService``, without its ``tf.Example`` methods."""

    def __init__(self, catalogue: Catalogue, predictor: Predictor, metrics: Metrics) -> None:
        self._catalogue = catalogue
        self._predictor = predictor
        self._metrics = metrics

    async def Predict(self, request: Request, context: Context) -> bytes:  # noqa: N802
        """Compute outputs."""
        async with answering(context):
            with self._metrics.call(request.head.message.model_spec.name, "Predict"):
                return await self._predictor.predict(request, _deadline(context))

    async def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: Context
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Tell the signatures."""
        async with answering(context):
            return model_metadata(self._catalogue, request)

    async def Classify(  # noqa: N802
        self,
        request: classification_pb2.ClassificationRequest,
        context: Context,
    ) -> classification_pb2.ClassificationResponse:
        """Refuse: images do not come as ``tf.Example``."""
        async with answering(context):
            with self._metrics.call(request.model_spec.name, "Classify"):
                raise Unimplemented("Classify is not implemented; use Predict")

    async def Regress(  # noqa: N802
        self,
        request: regression_pb2.RegressionRequest,
        context: Context,
    ) -> regression_pb2.RegressionResponse:
        """Refuse: images do not come as ``tf.Example``."""
        async with answering(context):
            with self._metrics.call(request.model_spec.name, "Regress"):
                raise Unimplemented("Regress is not implemented; use Predict")

    async def MultiInference(  # noqa: N802
        self,
        _: inference_pb2.MultiInferenceRequest,
        context: Context,
    ) -> inference_pb2.MultiInferenceResponse:
        """Refuse: images do not come as ``tf.Example``."""
        async with answering(context):
            raise Unimplemented("MultiInference is not implemented; use Predict")


class ModelServicer:
    """``tensorflow.serving.ModelService``."""

    def __init__(self, catalogue: Catalogue, reloader: Reloader) -> None:
        self._catalogue = catalogue
        self._reloader = reloader

    async def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: Context
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Tell what became of a model's versions."""
        async with answering(context):
            return model_status(self._catalogue, request)

    async def HandleReloadConfigRequest(  # noqa: N802
        self, request: model_management_pb2.ReloadConfigRequest, context: Context
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replace the set of models."""
        async with answering(context):
            return await self._reloader.reload(request)


def _deadline(context: Context) -> float | None:
    """Return when the caller stops waiting, by ``time.monotonic``; None when it never does."""
    left = context.time_remaining()
    return None if left is None else time.monotonic() + left
