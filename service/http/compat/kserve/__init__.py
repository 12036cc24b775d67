"""The Open Inference Protocol, version 2, over REST, with Triton's binary tensor data extension.

Clients: `tritonclient.http`, which sends tensors as bytes after the JSON and no Content-Type, and `kserve`'s
InferenceRESTClient. https://github.com/kserve/open-inference-protocol
"""

from fastapi import APIRouter, Request
from starlette.responses import Response

from microtome import __version__
from service.core.manifest import ModelCard
from service.core.ports import available_versions
from service.core.requests import Embedded
from service.errors import ModelNotReady, UnknownModel, unknown
from service.http.compat.dialect import Dialect
from service.http.compat.handler import Desk, Question
from service.http.compat.kserve import bodies
from service.http.compat.kserve.described import INFER, places
from service.http.compat.one_sentence import worded
from service.http.parameters import unknown_name
from service.inference_protocol import metadata
from service.inference_protocol.asking import PARAMETERS, asking, version_number
from service.inference_protocol.tensors import images_in, one_input


class Endpoints:
    """The protocol's requests, over the desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._models = desk.intake.models

    async def infer(self, request: Request) -> Response:
        """Embed the images of the input tensor."""
        model, version = request.path_params["model"], request.path_params.get("version", "")
        header_length = request.headers.get(bodies.HEADER)
        return await self._desk.serve(request, lambda body: self._question(model, version, body, header_length))

    def _question(self, model: str, version: str, raw: bytes, header_length: str | None) -> Question:
        body = bodies.read(raw, header_length)
        for name in body.parameters:
            if name not in PARAMETERS:
                raise unknown_name(name, PARAMETERS)
        limits = self._desk.limits
        images = images_in(one_input(body.inputs), max_images=limits.max_images, max_bytes=limits.max_image_bytes)
        asked = asking(model, version, body.outputs, body.parameters, list(self._models.card(model).outputs))

        def answer(embedded: Embedded) -> Response:
            return bodies.write(body, embedded.card.name, embedded.card.version, asked.answers(embedded))

        return Question(
            asked.request,
            images,
            answer,
            dimensions=asked.dimensions,
            normalize=asked.normalize,
            int8=asked.int8,
        )

    async def server(self) -> dict[str, object]:
        """Say what this is."""
        return {"name": metadata.NAME, "version": __version__, "extensions": list(metadata.EXTENSIONS)}

    async def live(self) -> dict[str, bool]:
        """Say that the process is alive."""
        return {"live": True}

    async def ready(self) -> dict[str, bool]:
        """Say whether an inference has recently worked for every model."""
        troubles = [trouble for trouble in self._models.readiness().values() if trouble is not None]
        if troubles:
            raise ModelNotReady(troubles[0])
        # kserve's client reads both keys from here.
        return {"live": True, "ready": True}

    async def models(self) -> dict[str, object]:
        """List the models."""
        return {"models": list(self._models.cards())}

    async def model_ready(self, request: Request) -> dict[str, object]:
        """Say whether a model answers."""
        model = request.path_params["model"]
        readiness = self._models.readiness()
        if model not in readiness:
            raise UnknownModel(unknown("model", model, readiness))
        trouble = readiness[model]
        if trouble is not None:
            raise ModelNotReady(trouble)
        await self._card(request)
        return {"name": model, "ready": True}

    async def model(self, request: Request) -> dict[str, object]:
        """Describe a model: its input and its outputs."""
        card = await self._card(request)
        return {
            "name": card.name,
            "versions": [str(number) for number in available_versions(self._models, card)],
            "platform": metadata.PLATFORM,
            "inputs": [_described(tensor) for tensor in metadata.INPUTS],
            "outputs": [_described(tensor) for tensor in metadata.outputs_of(card)],
        }

    async def _card(self, request: Request) -> ModelCard:
        model, version = request.path_params["model"], request.path_params.get("version", "")
        number = version_number(version)
        return self._models.card(model) if number is None else await self._models.card_of(model, number)


def _described(tensor: metadata.TensorMetadata) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _routes(desk: Desk) -> APIRouter:
    router = APIRouter(prefix="/v2")
    ends = Endpoints(desk)
    router.add_api_route("", ends.server, summary="Say what this is")
    router.add_api_route("/health/live", ends.live, summary="Is the process alive?")
    router.add_api_route("/health/ready", ends.ready, summary="Can it embed?")
    router.add_api_route("/models", ends.models, summary="List the models")
    for place, named in places(desk.intake.default_model).items():
        router.add_api_route(place, ends.model, summary="Describe a model", openapi_extra=named)
        router.add_api_route(f"{place}/ready", ends.model_ready, summary="Does a model answer?", openapi_extra=named)
        router.add_api_route(
            f"{place}/infer",
            ends.infer,
            methods=["POST"],
            summary="Embed",
            response_class=Response,
            responses=INFER["responses"],
            openapi_extra={**INFER["openapi_extra"], **named},
        )
    return router


DIALECT = Dialect(
    "kserve",
    "KServe v2, Triton",
    ("/v2", "/v2/health/", "/v2/models", "/v2/models/"),
    _routes,
    worded,
    frozenset({"/v2", "/v2/health/live", "/v2/health/ready"}),
)
"""The protocol at /v2; Cohere's /v2/embed is another dialect's."""
