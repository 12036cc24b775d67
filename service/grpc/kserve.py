"""The Open Inference Protocol over gRPC, for Triton's and KServe's clients: inference.GRPCInferenceService.

Over REST it is http/compat/kserve. Answers always hold raw contents: tritonclient's `as_numpy` reads no
others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc

from microtome import __version__
from microtome.errors import BadRequest, UnknownModel
from microtome.inference.v2 import inference_pb2 as pb
from microtome.manifest import ModelCard
from service import kserve
from service.core.embedder import Intake
from service.core.ports import available_versions
from service.core.requests import Embedded
from service.core.timeouts import within
from service.core.timings import Timings
from service.errors import unknown
from service.grpc.embed import CallLimits, holding, parsed
from service.grpc.middleware import Call, Calls
from service.kserve import PARAMETERS, InferRequest, Tensor, element, images_in, one_input, read_request, version_number

SERVICE = "inference.GRPCInferenceService"


@dataclass(frozen=True, slots=True)
class Inference:
    """The methods of the service."""

    calls: Calls
    intake: Intake
    limits: CallLimits

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the handlers of all methods, by their names in the protocol."""
        unary = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.stream_unary_rpc_method_handler(self.calls.answering(name, work))
                for name, work in unary.items()
            },
        )

    async def _server_live(self, _: Call) -> bytes:
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def _server_ready(self, _: Call) -> bytes:
        return pb.ServerReadyResponse(ready=self.intake.ready()).SerializeToString()

    async def _model_ready(self, call: Call) -> bytes:
        request = parsed(pb.ModelReadyRequest, await call.read() or b"")
        readiness = self.intake.models.readiness()
        if request.name not in readiness:
            raise UnknownModel(unknown("model", request.name, readiness))
        ready = readiness[request.name] is None
        if ready:
            await self._card(request.name, request.version)
        return pb.ModelReadyResponse(ready=ready).SerializeToString()

    async def _server_metadata(self, _: Call) -> bytes:
        return pb.ServerMetadataResponse(name=kserve.NAME, version=__version__).SerializeToString()

    async def _model_metadata(self, call: Call) -> bytes:
        request = parsed(pb.ModelMetadataRequest, await call.read() or b"")
        card = await self._card(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=card.name,
            versions=[str(number) for number in available_versions(self.intake.models, card)],
            platform=kserve.PLATFORM,
            inputs=_described(kserve.INPUTS),
            outputs=_described(kserve.outputs_of(card)),
        ).SerializeToString()

    async def _card(self, model: str, version: str) -> ModelCard:
        number = version_number(version)
        return self.intake.models.card(model) if number is None else await self.intake.models.card_of(model, number)

    async def _infer(self, call: Call) -> bytes:
        async with within(call.allowed(self.intake.deadline)):
            raw = await call.read()
            if raw is None:
                raise BadRequest("Expected a ModelInferRequest, received the call's end.")
            with holding(self.intake, call.caller, len(raw)):
                return await self._answered(call, parsed(pb.ModelInferRequest, raw))

    async def _answered(self, call: Call, request: pb.ModelInferRequest) -> bytes:
        tensor = one_input(_inputs(request))
        images = images_in(tensor, max_images=self.limits.max_images, max_bytes=self.limits.max_image_bytes)
        known = list(self.intake.models.card(request.model_name).outputs)
        outputs = [output.name for output in request.outputs]
        asked = read_request(request.model_name, request.model_version, outputs, _parameters(request.parameters), known)
        self.intake.check(asked.request, dimensions=asked.dimensions, normalize=asked.normalize, int8=asked.int8)
        call.facts |= {"images": len(images), "model": asked.request.model[:80]}
        own = call.caller.images if call.caller else None
        embedded = await self.intake.embed(asked.request, images, Timings(self.intake.observer.stage), own=own)
        return _response(request.id, asked, embedded).SerializeToString()


def _response(identity: str, asked: InferRequest, embedded: Embedded) -> pb.ModelInferResponse:
    tensors = asked.answers(embedded)
    return pb.ModelInferResponse(
        model_name=embedded.card.name,
        model_version=str(embedded.card.version),
        id=identity,
        outputs=[pb.InferOutputTensor(name=t.name, datatype=t.datatype, shape=t.shape) for t in tensors],
        raw_output_contents=[tensor.data for tensor in tensors],
    )


def _inputs(request: pb.ModelInferRequest) -> list[Tensor]:
    """Return the inputs, whose values are raw or, if none is, in lists.

    Raises:
        BadRequest: raw values of some inputs only, or a datatype that has no list here.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadRequest(
            f"Expected raw_input_contents of all {len(request.inputs)} inputs or of none; received {len(raw)}."
        )
    found = []
    for number, entry in enumerate(request.inputs):
        if any(size < 0 for size in entry.shape):
            raise BadRequest(f"Expected sizes as `shape` of {entry.name[:40]!r}; received {list(entry.shape)[:8]}.")
        data = raw[number] if raw else _listed(entry)
        found.append(Tensor(entry.name, entry.datatype, tuple(entry.shape), data))
    return found


def _listed(entry: pb.InferInputTensor) -> bytes:
    if entry.datatype == "BYTES":
        return b"".join(map(element, entry.contents.bytes_contents))
    if entry.datatype == "UINT8":
        try:
            return bytes(entry.contents.uint_contents)
        except ValueError:
            raise BadRequest("Expected UINT8 contents to be from 0 to 255.") from None
    raise BadRequest(f"Expected datatype BYTES or UINT8, received {entry.datatype[:20]!r}.")


def _parameters(given: Mapping[str, pb.InferParameter]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, parameter in given.items():
        if name not in PARAMETERS:
            raise BadRequest(f"Unknown parameter {name[:80]!r}. Known: {', '.join(PARAMETERS)}.")
        choice = parameter.WhichOneof("parameter_choice")
        found[name] = getattr(parameter, choice) if choice else None
    return found


def _described(tensors: Sequence[kserve.TensorMetadata]) -> list[pb.TensorMetadata]:
    return [pb.TensorMetadata(name=t.name, datatype=t.datatype, shape=t.shape) for t in tensors]
