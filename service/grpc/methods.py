"""The service's methods, as gRPC's server wants them.

Every method takes its messages as bytes and from a stream, also where there is exactly one; on the wire both are the
same. So a message is read when its call has been let in, not before, and its bytes can be counted.
"""

from dataclasses import dataclass, field
from typing import Any

import grpc

from microtome.v1 import embedding_pb2 as pb
from service.core.embedder import Intake
from service.errors import BadRequest, UnknownModel, unknown
from service.grpc.embed import Embed
from service.grpc.images import CallLimits, parsed
from service.grpc.middleware import Call, Calls
from service.grpc.models import get_model, list_models
from service.grpc.options import read_options
from service.grpc.stream import Stream

SERVICE = pb.DESCRIPTOR.services_by_name["EmbeddingService"].full_name


@dataclass(frozen=True, slots=True)
class Methods:
    """What callers can ask for."""

    calls: Calls
    intake: Intake
    limits: CallLimits
    _streams: set[Stream] = field(default_factory=set)

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the handlers of all methods, by their names in the contract."""
        unary = {
            "Embed": Embed(self.intake, self.limits).__call__,
            "ListModels": self._list_models,
            "GetModel": self._get_model,
        }
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.stream_unary_rpc_method_handler(self.calls.answering(name, work)) for name, work in unary.items()
        }
        handlers["EmbedStream"] = grpc.stream_stream_rpc_method_handler(
            self.calls.answering("EmbedStream", self._embed_stream)
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def stop_streams(self) -> None:
        """Let every stream answer what it has read, and read no more."""
        for stream in self._streams:
            stream.stop()

    async def _list_models(self, _: Call) -> bytes:
        return list_models(self.intake.models).SerializeToString()

    async def _get_model(self, call: Call) -> bytes:
        request = parsed(pb.GetModelRequest, await call.read() or b"")
        return get_model(self.intake.models, request.name).SerializeToString()

    async def _embed_stream(self, call: Call) -> None:
        raw = await call.read()
        if raw is None:
            return
        first = parsed(pb.EmbedStreamRequest, raw)
        if first.options.on_error == pb.ON_ERROR_FAIL:
            raise BadRequest("Expected no `on_error` in a stream, or ON_ERROR_SKIP: a bad image does not end it.")
        asked = read_options(first.options, self.intake.default_model)
        known = self.intake.models.cards()
        if asked.request.model not in known:
            raise UnknownModel(unknown("model", asked.request.model, known))
        self.intake.check(
            asked.request, dimensions=asked.dimensions, normalize=asked.normalize, int8=asked.dtype == "int8"
        )
        call.facts["model"] = asked.request.model[:80]
        call.streamed = 0
        stream = Stream(call, self.calls, self.intake, self.limits, asked, grouped=first.reads_more)
        self._streams.add(stream)
        try:
            await stream.run(first)
        finally:
            self._streams.discard(stream)
