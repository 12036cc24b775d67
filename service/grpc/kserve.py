"""The Open Inference Protocol over gRPC, for Triton's and KServe's clients: inference.GRPCInferenceService.

Over REST it is http/compat/kserve. Answers always hold raw contents: tritonclient's `as_numpy` reads no
others.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from microtome import __version__
from microtome.errors import BadRequest
from microtome.inference.v2 import inference_pb2 as pb
from service import kserve
from service.core.intake import Intake
from service.core.ports import available_versions
from service.core.requests import Embedded
from service.errors import of_model
from service.grpc.embed import CallLimits, embedded_for, named, received
from service.grpc.middleware import Call, Calls, Work
from service.kserve import PARAMETERS, InferRequest, Tensor, images_in, one_input, read_request, shape_of

_PACKAGE = "inference"
SERVICE = f"{_PACKAGE}.GRPCInferenceService"

_PUBLIC = frozenset({"ServerLive", "ServerReady", "ServerMetadata"})
"""Health checks and what this is need no key, as over REST."""


_NAMED = 4
"""Inputs that a message names when there are more than the one that is expected."""


@dataclass(frozen=True, slots=True)
class Inference:
    """The methods of the service."""

    calls: Calls
    intake: Intake
    limits: CallLimits

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the handlers of all methods, by their names in the protocol."""
        return grpc.method_handlers_generic_handler(SERVICE, self.calls.unary(self._methods(), _PUBLIC))

    def _methods(self) -> Mapping[str, Work]:
        return {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }

    def described(self) -> FileDescriptorProto:
        """Return the protocol's own file: our messages in the package `inference`, and the service.

        Ours are in another package, so that they never collide with a client's in one process.
        """
        ours = FileDescriptorProto()
        pb.DESCRIPTOR.CopyToProto(ours)
        text = text_format.MessageToString(ours).replace(f".{ours.package}.", f".{_PACKAGE}.")
        file = text_format.Parse(text, FileDescriptorProto())
        file.name, file.package = "open_inference_grpc.proto", _PACKAGE
        service = file.service.add(name=SERVICE.removeprefix(f"{_PACKAGE}."))
        for method in self._methods():
            request, response = f".{_PACKAGE}.{method}Request", f".{_PACKAGE}.{method}Response"
            service.method.add(name=method, input_type=request, output_type=response)
        return file

    async def _server_live(self, _: Call) -> bytes:
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def _server_ready(self, _: Call) -> bytes:
        return pb.ServerReadyResponse(ready=self.intake.ready()).SerializeToString()

    async def _model_ready(self, call: Call) -> bytes:
        request = await named(call, pb.ModelReadyRequest)
        ready = of_model(request.name, self.intake.models.readiness()) is None
        if ready:
            await kserve.card_of(self.intake.models, request.name, request.version)
        return pb.ModelReadyResponse(ready=ready).SerializeToString()

    async def _server_metadata(self, _: Call) -> bytes:
        return pb.ServerMetadataResponse(name=kserve.NAME, version=__version__).SerializeToString()

    async def _model_metadata(self, call: Call) -> bytes:
        request = await named(call, pb.ModelMetadataRequest)
        card = await kserve.card_of(self.intake.models, request.name, request.version)
        return pb.ModelMetadataResponse(
            name=card.name,
            versions=[str(number) for number in available_versions(self.intake.models, card)],
            platform=kserve.PLATFORM,
            inputs=[pb.TensorMetadata(**tensor._asdict()) for tensor in kserve.INPUTS],
            outputs=[pb.TensorMetadata(**tensor._asdict()) for tensor in kserve.outputs_of(card)],
        ).SerializeToString()

    async def _infer(self, call: Call) -> bytes:
        async with received(call, self.intake, pb.ModelInferRequest) as request:
            tensor = one_input(_inputs(request))
            images = images_in(tensor, max_images=self.limits.max_images, max_bytes=self.limits.max_image_bytes)
            known = list(self.intake.models.card(request.model_name).outputs)
            names, given = [output.name for output in request.outputs], _parameters(request.parameters)
            classification = {output.name: _classification(output) for output in request.outputs}
            asked = read_request(request.model_name, request.model_version, names, given, known, classification)
            self.intake.check(
                asked.request, dimensions=asked.dimensions, normalize=asked.normalize, int8=asked.datatype == "INT8"
            )
            identity = request.id
            # They have the bytes of all images once more.
            del request, tensor
            embedded = await embedded_for(call, self.intake, asked.request, images)
            return _response(identity, asked, embedded).SerializeToString()


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
    if len(request.inputs) != 1:
        return [Tensor(entry.name, entry.datatype, (), b"") for entry in request.inputs[:_NAMED]]
    (entry,) = request.inputs
    shape = shape_of(entry.shape, entry.name)
    return [Tensor(entry.name, entry.datatype, shape, raw[0] if raw else _listed(entry))]


def _listed(entry: pb.InferInputTensor) -> bytes | list[bytes]:
    if entry.datatype == "BYTES":
        return list(entry.contents.bytes_contents)
    if entry.datatype == "UINT8":
        try:
            return bytes(entry.contents.uint_contents)
        except ValueError:
            raise BadRequest("Expected UINT8 contents to be from 0 to 255.") from None
    raise BadRequest(f"Expected datatype BYTES or UINT8, received {entry.datatype[:20]!r}.")


def _classification(output: pb.InferRequestedOutputTensor) -> object:
    """Return Triton's parameter of that name, None if it is left out; others are shared memory's, which is not here."""
    if "classification" not in output.parameters:
        return None
    return output.parameters["classification"].int64_param


def _parameters(given: Mapping[str, pb.InferParameter]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, parameter in given.items():
        if name not in PARAMETERS:
            raise BadRequest(f"Unknown parameter {name[:80]!r}. Known: {', '.join(PARAMETERS)}.")
        choice = parameter.WhichOneof("parameter_choice")
        found[name] = getattr(parameter, choice) if choice else None
    return found
