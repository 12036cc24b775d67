"""Calls to a model server, with own messages in TensorFlow Serving's wire format, and its status codes as our errors.

The official stubs would import all of TensorFlow: seconds and half a gigabyte per process. Status messages are those of
TensorFlow Serving 2.20; its texts stay in our logs, callers get ours.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import Int64Value
from grpc import StatusCode

from microtome.errors import (
    DeadlineExceeded,
    ModelNotReady,
    ModelServerDown,
    ModelServerFault,
    Overloaded,
    ServiceError,
)
from microtome.tfserving.v1.model_status_pb2 import GetModelStatusRequest, GetModelStatusResponse, ModelVersionStatus
from microtome.tfserving.v1.predict_pb2 import ModelSpec, PredictResponse
from service.model_server.names import Place
from service.model_server.predict_encoding import WireTensor, predict_request, query_tensor

T = TypeVar("T")

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Each client has a connection of its own: gRPC would hand a new channel the one that has fallen silent.
    ("grpc.use_local_subchannel_pool", 1),
    # Into silence only: the status that is asked for each second brings data, which resets the clock and the server's
    # count of pings. A stock server closes a connection at the third ping without data between them.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # A model server that comes back is found within a second, not within gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # The model server is in the gateway's network, not behind a proxy for the outside.
    ("grpc.enable_http_proxy", 0),
)


Outgoing = Callable[[], Sequence[tuple[str, str]]]
"""Returns the gRPC metadata of the present call's trace."""


def untraced() -> Sequence[tuple[str, str]]:
    """Chosen when nothing is traced."""
    return ()


bulk_call: ContextVar[bool] = ContextVar("microtome_bulk_call", default=False)
"""Whether all images of the present call are those of bulk requests. A context variable, as the deadline is one."""

_BULK = (("microtome-priority", "bulk"),)
"""Metadata by which the embedded model server lets other calls pass; TensorFlow Serving ignores it."""

_SERVICES = frozenset({"", "ModelService", "PredictionService"})
"""What a model server's health service lists besides models."""

_STATES = {number: name.removeprefix("STATE_").lower() for name, number in ModelVersionStatus.State.items() if number}


class Predict(Protocol):
    """What runs a version on one model server."""

    async def predict(  # noqa: PLR0913, the parts of one request
        self,
        model: str,
        version: int,
        signature: str,
        inputs: Mapping[str, WireTensor],
        outputs: Sequence[str],
        *,
        timeout: float,  # noqa: ASYNC109, gRPC's own deadline
    ) -> PredictResponse:
        """Run a signature of exactly this version; see `ModelServerClient`."""


class ModelServerClient:
    """One channel to one model server."""

    def __init__(
        self,
        place: Place,
        outgoing: Outgoing = untraced,
        reconnected: Callable[["ModelServerClient"], object] = lambda _: None,
    ) -> None:
        """Connect when first used. Needs a running event loop.

        Args:
            place: where the server listens.
            outgoing: returns the metadata of a call's trace.
            reconnected: called when the connection is lost or made: another process may be at the other end.
        """
        self.engines: dict[str, Mapping[int, str]] = {}
        """What computes each version of a model, and why, as the server said last; TensorFlow Serving says nothing."""
        self._outgoing = outgoing
        named = () if place.authority is None else (("grpc.default_authority", place.authority),)
        self._channel = grpc.aio.insecure_channel(place.target, options=(*_OPTIONS, *named))
        self._watching = asyncio.create_task(self._watch(reconnected))
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
            ServiceError: see `to_service_error`; a model that the server does not know is ModelNotReady.
        """
        with _translated():
            answer = await self._status(GetModelStatusRequest(model_spec=ModelSpec(name=model)), timeout=timeout)
        versions = _whole(answer).model_version_status
        self.engines[model] = {status.version: status.engine for status in versions if status.engine}
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
            ServiceError: see `to_service_error`.
        """
        spec = ModelSpec(name=model, version=Int64Value(value=version), signature_name=signature)
        request = predict_request(spec, inputs, outputs)
        metadata = (*self._outgoing(), *_BULK) if bulk_call.get() else self._outgoing()
        with _translated():
            return _whole(await self._predict(request, timeout=timeout, metadata=metadata))

    async def labelled(self, model: str, label: str, *, timeout: float) -> int:  # noqa: ASYNC109, gRPC's own deadline
        """Return the version of a label, which the answer of the cheapest call names.

        Raises:
            ServiceError: see `to_service_error`; an unknown label is one of them.
        """
        spec = ModelSpec(name=model, version_label=label, signature_name="manifest")
        request = predict_request(spec, {"query": query_tensor()}, [])
        with _translated():
            answer = await self._predict(request, timeout=timeout, metadata=self._outgoing())
        return int(_whole(answer).model_spec.version.value)

    async def listed(self, *, timeout: float) -> set[str]:  # noqa: ASYNC109, gRPC's own deadline
        """Return the names of the models that the server has, as its health service lists them.

        Raises:
            ServiceError: see `to_service_error`; TensorFlow Serving lists nothing, which is ModelServerFault.
        """
        # Imported here since only gateways that look for models need it.
        from grpc_health.v1 import health_pb2  # noqa: PLC0415

        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, Any] = self._channel.unary_unary(
            "/grpc.health.v1.Health/List", response_deserializer=health_pb2.HealthListResponse.FromString
        )
        with _translated():
            answer = _whole(await ask(b"", timeout=timeout))
        return {name for name in answer.statuses if name not in _SERVICES}

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        self._watching.cancel()
        with suppress(asyncio.CancelledError):
            await self._watching
        await self._channel.close()

    async def _watch(self, reconnected: Callable[["ModelServerClient"], object]) -> None:
        # gRPC reports a lost connection before the answer of any call on the next one.
        state = self._channel.get_state()
        while state is not grpc.ChannelConnectivity.SHUTDOWN:
            await self._channel.wait_for_state_change(state)
            before, state = state, self._channel.get_state()
            if grpc.ChannelConnectivity.READY in {before, state}:
                reconnected(self)


def _whole(answer: T | None) -> T:
    """Return an answer; gRPC gives None for bytes that are not the message that they should be."""
    if answer is None:
        raise ModelServerFault("The model server answered with something that is no answer.")
    return answer


@contextmanager
def _translated() -> Iterator[None]:
    """Raise gRPC's errors as ours."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise to_service_error(error.code(), error.details() or "") from error


_MEANING: Mapping[StatusCode, tuple[type[ServiceError], str]] = {
    StatusCode.UNAVAILABLE: (ModelServerDown, "The model server cannot be reached. Try again in a few seconds."),
    # Exhausted threads, a queue that timed out and GPU memory look alike; so does our own receive limit, which is off.
    StatusCode.RESOURCE_EXHAUSTED: (Overloaded, "The model server has more work than it can do now. Try again later."),
    StatusCode.DEADLINE_EXCEEDED: (DeadlineExceeded, "The model server did not answer in the time allowed."),
    StatusCode.NOT_FOUND: (ModelNotReady, "The model server has no such version of the model ready."),
    # Our own channel was closed during a call: the gateway is stopping, or the server's address is gone.
    StatusCode.CANCELLED: (ModelServerDown, "The gateway is stopping."),
}
_FAULT = (ModelServerFault, "The model server could not run the model on a request that follows its own manifest.")


def to_service_error(code: StatusCode, details: str) -> ServiceError:
    """Translate one failed call. Total: an unexpected code is the server's fault."""
    # A full batching queue is UNAVAILABLE, like a server that cannot be reached.
    if code is StatusCode.UNAVAILABLE and "batch scheduling queue" in details:
        return Overloaded("The model server's queue is full. Try again in a second.")
    kind, message = _MEANING.get(code, _FAULT)
    return kind(message)
