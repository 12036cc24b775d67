"""Ask every model server which versions of a model it has, and whether one of them answers."""

import socket
from collections.abc import Callable, Sequence
from operator import methodcaller
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int64Value

from microtome.commands.rollout.errors import CannotBegin
from microtome.tfserving.v1.model_status_pb2 import GetModelStatusRequest, GetModelStatusResponse, ModelVersionStatus
from microtome.tfserving.v1.predict_pb2 import ModelSpec, PredictRequest, PredictResponse
from microtome.tfserving.v1.tensor_pb2 import DataType, Tensor, TensorShape

_SECONDS = 5.0
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0))


class VersionState(NamedTuple):
    """The state of a version on one server, as TensorFlow Serving names it, and its error, if any."""

    state: str
    error: str = ""

    @property
    def available(self) -> bool:
        """Whether it takes requests."""
        return self.state == "AVAILABLE"


class Unreachable(Exception):
    """A server did not answer; `str` says why."""


def resolved(address: str) -> list[str]:
    """Return every server behind an address: a headless Service's name covers all of its pods.

    Raises:
        CannotBegin: the address has another form, or its name cannot be resolved.
    """
    if address.startswith("unix:"):
        return [address]
    host, colon, port = address.removeprefix("dns:///").rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise CannotBegin(f"Expected a model server as host:port or unix:/path; received {address!r}.")
    return [f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in hosts(host.strip("[]"), int(port))]


def hosts(name: str, port: int) -> list[str]:
    """Return every IP address of a name.

    Raises:
        CannotBegin: it cannot be resolved.
    """
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CannotBegin(f"Expected a name that can be resolved; {name!r} cannot: {error}.") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Server:
    """One model server."""

    def __init__(self, address: str) -> None:
        self.address = address
        channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._status = _method(channel, "ModelService/GetModelStatus", GetModelStatusResponse)
        self._predict = _method(channel, "PredictionService/Predict", PredictResponse)

    def states(self, model: str) -> dict[int, VersionState]:
        """Return the versions that the server has or had; none when it has no such model.

        Raises:
            Unreachable: the server does not answer.
        """
        try:
            answer = self._status(GetModelStatusRequest(model_spec=ModelSpec(name=model)), timeout=_SECONDS)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return {}
            raise Unreachable(f"{self.address}: {error.code().name} {error.details()}") from None
        return {one.version: _state(one) for one in answer.model_version_status}

    def version_in_use(self, model: str, label: str) -> int | None:
        """Return the version of a label on this server; None when it has no such label.

        Raises:
            Unreachable: the server does not answer.
        """
        return self._manifest(ModelSpec(name=model, version_label=label))

    def answers(self, model: str, version: int) -> bool:
        """Whether a version answers the `manifest` signature, which runs its graph.

        Raises:
            Unreachable: the server does not answer.
        """
        return self._manifest(ModelSpec(name=model, version=Int64Value(value=version))) == version

    def _manifest(self, spec: ModelSpec) -> int | None:
        spec.signature_name = "manifest"
        query = Tensor(
            dtype=DataType.DATA_TYPE_INT32,
            tensor_shape=TensorShape(dim=[TensorShape.Dim(size=1)]),
            tensor_content=b"\0\0\0\0",
        )
        try:
            answer = self._predict(PredictRequest(model_spec=spec, inputs={"query": query}), timeout=_SECONDS)
        except grpc.RpcError as error:
            if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                raise Unreachable(f"{self.address}: {error.code().name} {error.details()}") from None
            return None
        return int(answer.model_spec.version.value)


def _method(channel: grpc.Channel, name: str, response: type[Message]) -> Callable[..., Any]:
    return channel.unary_unary(f"/tensorflow.serving.{name}", methodcaller("SerializeToString"), response.FromString)


def servers_at(addresses: Sequence[str]) -> list[Server]:
    """Return every server behind the addresses.

    Raises:
        CannotBegin: as in `resolved`.
    """
    return [Server(one) for one in dict.fromkeys(one for address in addresses for one in resolved(address))]


def _state(status: ModelVersionStatus) -> VersionState:
    name = ModelVersionStatus.State.Name(status.state).removeprefix("STATE_")
    return VersionState(name, status.status.error_message if status.status.error_code else "")
