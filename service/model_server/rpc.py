"""The calls that the gateway makes, over messages of our own that have TensorFlow Serving's wire format.

The official stubs would cost the gateway all of TensorFlow: seconds and half a gigabyte per process.
"""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import Int64Value

from microtome.tfserving.v1.model_status_pb2 import GetModelStatusRequest, GetModelStatusResponse, ModelVersionStatus
from microtome.tfserving.v1.predict_pb2 import ModelSpec, PredictResponse
from service.errors import ModelServerFault
from service.model_server.codec import query_tensor
from service.model_server.predict_encoding import WireTensor, predict_request
from service.model_server.statuses import to_service_error

T = TypeVar("T")

# A name that stands for several servers: calls go round, and one that cannot be sent is sent to the next.
_SERVICE_CONFIG = """{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{
    "name": [{}],
    "retryPolicy": {
      "maxAttempts": 2, "initialBackoff": "0.02s", "maxBackoff": "0.02s", "backoffMultiplier": 1,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }]
}"""

_OPTIONS = (
    ("grpc.service_config", _SERVICE_CONFIG),
    # What is larger cannot be sent again: as many bytes as the largest batch may have.
    ("grpc.per_rpc_retry_buffer_size", 256 << 20),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A model server that comes back is found within a second, not within gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # The model server stands beside the gateway; a proxy for the outside world is not on the way.
    ("grpc.enable_http_proxy", 0),
)


Outgoing = Callable[[], Sequence[tuple[str, str]]]
"""Returns gRPC metadata that says which trace the present call belongs to."""


def untraced() -> Sequence[tuple[str, str]]:
    """Chosen when nothing is traced."""
    return ()


_STATES = {number: name.removeprefix("STATE_").lower() for name, number in ModelVersionStatus.State.items() if number}


class ModelServerRpc:
    """One channel to one model server."""

    def __init__(self, address: str, outgoing: Outgoing = untraced) -> None:
        """Connect when first used. Needs a running event loop.

        Args:
            address: `host:port`, `dns:///…` or `unix:/path`.
            outgoing: says which trace a call belongs to.
        """
        self._outgoing = outgoing
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._predict: grpc.aio.UnaryUnaryMultiCallable[bytes, PredictResponse | None] = self._channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            response_deserializer=PredictResponse.FromString,
        )
        self._status = self._channel.unary_unary(
            "/tensorflow.serving.ModelService/GetModelStatus",
            request_serializer=GetModelStatusRequest.SerializeToString,
            response_deserializer=GetModelStatusResponse.FromString,
        )

    async def versions(self, model: str, *, timeout: float) -> dict[int, str]:  # noqa: ASYNC109, gRPC's own deadline
        """Return the state of each version of a model: start, loading, available, unloading, end or unknown.

        Raises:
            ServiceError: see `statuses.py`; a model that the server does not know is ModelNotReady.
        """
        with _translated:
            answer = await self._status(GetModelStatusRequest(model_spec=ModelSpec(name=model)), timeout=timeout)
        versions = _whole(answer).model_version_status
        return {status.version: _STATES.get(status.state, "unknown") for status in versions}

    async def predict(  # noqa: PLR0913, the parts of one request
        self,
        model: str,
        version: int,
        signature: str,
        inputs: Mapping[str, WireTensor],
        outputs: Sequence[str],
        *,
        timeout: float,  # noqa: ASYNC109, gRPC's own deadline, which the server is told
    ) -> PredictResponse:
        """Run a signature of exactly this version.

        Raises:
            ServiceError: see `statuses.py`.
        """
        spec = ModelSpec(name=model, version=Int64Value(value=version), signature_name=signature)
        request = predict_request(spec, inputs, outputs)
        with _translated:
            return _whole(await self._predict(request, timeout=timeout, metadata=self._outgoing()))

    async def labelled(self, model: str, label: str, *, timeout: float) -> int:  # noqa: ASYNC109, gRPC's own deadline
        """Return the version that a label stands for, as the answer to the cheapest question names it.

        Raises:
            ServiceError: see `statuses.py`; a label that stands for nothing is one of them.
        """
        spec = ModelSpec(name=model, version_label=label, signature_name="manifest")
        request = predict_request(spec, {"query": query_tensor()}, [])
        with _translated:
            answer = await self._predict(request, timeout=timeout, metadata=self._outgoing())
        return int(_whole(answer).model_spec.version.value)

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        await self._channel.close()


def _whole(answer: T | None) -> T:
    """Return an answer; gRPC gives None for bytes that are not the message that they should be."""
    if answer is None:
        raise ModelServerFault("The model server answered with something that is no answer.")
    return answer


class _Translated:
    """No generator, which costs more; one serves all, since it remembers nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if isinstance(error, grpc.aio.AioRpcError):
            raise to_service_error(error.code(), error.details() or "") from error


_translated = _Translated()
