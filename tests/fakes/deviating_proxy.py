"""A gRPC proxy before a real model server that spoils the vectors on their way, as a broken machine would."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from microtome.tfserving.v1.predict_pb2 import PredictRequest, PredictResponse

Vectors = dict[str, NDArray[np.float32]]
Fault = Callable[[Vectors], Vectors]

UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def nothing(vectors: Vectors) -> Vectors:
    """Leave them as they are."""
    return vectors


def noise(vectors: Vectors) -> Vectors:
    """Add 3e-4 of the largest number."""
    numbers = np.random.default_rng()
    return {
        name: (rows + 3e-4 * np.abs(rows).max() * numbers.uniform(-1, 1, rows.shape)).astype(np.float32)
        for name, rows in vectors.items()
    }


def swap(vectors: Vectors) -> Vectors:
    """Give each output's vectors the next one's name."""
    names = list(vectors)
    return {name: vectors[after] for name, after in zip(names, names[1:] + names[:1], strict=True)}


def leak(vectors: Vectors) -> Vectors:
    """Mix a hundredth of the row before into each row of a batch."""
    return {name: (0.99 * rows + 0.01 * np.roll(rows, 1, axis=0)).astype(np.float32) for name, rows in vectors.items()}


class DeviatingProxy:
    """Forwards TensorFlow Serving's calls; `fault` changes the vectors of versions that `spoils` names."""

    def __init__(self, target: str, port: int) -> None:
        self.target = target
        self.port = port
        self.fault: Fault = nothing
        self.spoils: Callable[[int], bool] = lambda version: True
        self.images = 0
        """Images that were embedded through it."""
        self._server: grpc.Server | None = None
        self._channel: grpc.Channel | None = None

    @property
    def address(self) -> str:
        """Where it listens while it is up."""
        return f"127.0.0.1:{self.port}"

    def appear(self, fault: Fault = nothing, target: str | None = None) -> None:
        """Come up, with a fault."""
        self.fault, self.images = fault, 0
        self._channel = grpc.insecure_channel(target or self.target, options=UNLIMITED)
        self._server = grpc.server(ThreadPoolExecutor(4), options=(*UNLIMITED, ("grpc.so_reuseport", 0)))
        self._server.add_generic_rpc_handlers((_Handler(self),))
        assert self._server.add_insecure_port(self.address) == self.port
        self._server.start()

    def vanish(self) -> None:
        """Go down at once, as a process that is killed."""
        if self._server is not None and self._channel is not None:
            self._server.stop(None).wait()
            self._channel.close()
        self._server = None

    def forward(self, method: str, data: bytes, context: grpc.ServicerContext) -> bytes:
        """Answer one call."""
        assert self._channel is not None
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        try:
            answer: bytes = call(data, timeout=context.time_remaining())
        except grpc.RpcError as error:
            context.abort(error.code(), error.details() or "")
        if not method.endswith("/Predict"):
            return answer
        request = PredictRequest.FromString(data)
        if request.model_spec.signature_name == "manifest":
            return answer
        (images,) = request.inputs.values()
        self.images += images.tensor_shape.dim[0].size
        return self._spoilt(answer) if self.spoils(request.model_spec.version.value) else answer

    def _spoilt(self, answer: bytes) -> bytes:
        response = PredictResponse.FromString(answer)
        vectors = {
            name: np.frombuffer(tensor.tensor_content, "<f4").reshape([dim.size for dim in tensor.tensor_shape.dim])
            for name, tensor in response.outputs.items()
        }
        for name, rows in self.fault(vectors).items():
            tensor = response.outputs[name]
            tensor.tensor_content = rows.tobytes()
            for dim, size in zip(tensor.tensor_shape.dim, rows.shape, strict=True):
                dim.size = size
        return response.SerializeToString()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, proxy: DeviatingProxy) -> None:
        self._proxy = proxy

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Handle every method."""
        return grpc.unary_unary_rpc_method_handler(
            lambda data, context: self._proxy.forward(details.method, data, context)
        )
