"""The Open Inference Protocol, version 2, over REST, with Triton's binary tensor data extension.

Clients: `tritonclient.http`, which sends tensors as bytes after the JSON and no Content-Type, and `kserve`'s
InferenceRESTClient. https://github.com/kserve/open-inference-protocol
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from microtome import __version__
from microtome.errors import BadRequest, ModelNotReady, RequestRejected
from microtome.manifest import ModelCard
from service import kserve
from service.core.ports import available_versions
from service.core.requests import Embedded
from service.errors import of_model, shown
from service.http.bodies import BodyLimits
from service.http.bounded_json import read_object
from service.http.compat.errors import inference_error
from service.http.compat.handler import CompatHandler, CompatRequest, Dialect
from service.http.compat.openapi import TEXT, described
from service.http.compat.parsing import is_data_uri, short
from service.http.json_images import at_most, from_base64, from_data_uri
from service.http.openapi import RED_PNG
from service.http.parameters import unknown_name
from service.kserve import PARAMETERS, Data, OutputTensor, Tensor, images_in, one_input, read_request, shape_of, texts

_HEADER = "inference-header-content-length"
_FIELDS = {"id", "parameters", "inputs", "outputs"}
_IGNORED = {"model_name", "model_version"}
"""kserve's client repeats the path's names in the body."""

_MOST_DIGITS = 18
_MOST_LEVELS = 4
"""Of pixels: images, rows, pixels, colours."""

_EXPECTED_DATA = "Expected `data`, a list of base64 strings (BYTES) or of numbers (UINT8), or binary_data_size."

_NUMPY = {"FP32": "<f4", "FP16": "<f2", "INT8": "i1"}


@dataclass(frozen=True, slots=True)
class _Body:
    """The content of a request.

    Attributes:
        identity: repeated in the response; None if the request has none.
        binary: for each output asked for, whether its bytes are to follow the JSON.
        binary_by_default: the default of `binary`.
    """

    identity: str | None
    parameters: Mapping[str, object]
    inputs: Sequence[Tensor]
    outputs: Sequence[str]
    binary: Mapping[str, bool]
    binary_by_default: bool
    classification: Mapping[str, object]


def _read_body(body: bytes | bytearray, header_length: str | None, limits: BodyLimits) -> _Body:
    """Read a request.

    Args:
        body: as it came.
        header_length: of the header `Inference-Header-Content-Length`: bytes of JSON at the beginning. 0 means that the
            body is the only image; None that all of it is JSON.
        limits: of images.

    Raises:
        BadRequest: not what the protocol has.
        TooManyImages: more than the limit.
    """
    if header_length is None:
        return _read_json(body, memoryview(b""), limits)
    digits = header_length if header_length.isascii() and header_length.isdecimal() else "-1"
    length = int(digits) if len(digits) < _MOST_DIGITS else -1
    if not 0 <= length <= len(body):
        raise BadRequest(
            f"Expected Inference-Header-Content-Length from 0 to {len(body)}, the bytes of JSON at the body's "
            f"beginning; received {header_length[:40]!r}."
        )
    if length == 0:
        return _Body(
            None,
            {},
            [Tensor("image", "BYTES", (1,), [bytes(body)])],
            (),
            {},
            binary_by_default=False,
            classification={},
        )
    return _read_json(body[:length], memoryview(body)[length:], limits)


def _read_json(head: bytes | bytearray, rest: memoryview, limits: BodyLimits) -> _Body:
    value = read_object(head, numbers=True)
    if not value.keys() <= _FIELDS | _IGNORED:
        raise BadRequest(f"Expected a JSON object with some of {', '.join(sorted(_FIELDS))}, and nothing else.")
    parameters = dict(_object(value.get("parameters"), "parameters"))
    binary_by_default = parameters.pop("binary_data_output", False) is True
    inputs, at = [], 0
    for entry in _objects(value.get("inputs"), "inputs"):
        tensor, used = _tensor(entry, rest, at, limits)
        inputs.append(tensor)
        at += used
    if at != len(rest):
        raise BadRequest(f"Expected {at} bytes after the JSON, as binary_data_size says; received {len(rest)}.")
    outputs = _objects(value.get("outputs"), "outputs")
    given = {_text(entry, "name"): _object(entry.get("parameters"), "parameters") for entry in outputs}
    said = {name: flag for name, found in given.items() if isinstance(flag := found.get("binary_data"), bool)}
    identity = value.get("id")
    return _Body(
        str(short(identity, "id")) if isinstance(identity, str) else None,
        parameters,
        inputs,
        [_text(entry, "name") for entry in outputs],
        said,
        binary_by_default,
        {name: found.get("classification") for name, found in given.items()},
    )


def _tensor(entry: Mapping[str, Any], rest: memoryview, at: int, limits: BodyLimits) -> tuple[Tensor, int]:
    """Return an input, and how many of the bytes after the JSON are its own."""
    name, datatype = _text(entry, "name"), _text(entry, "datatype")
    shape = entry.get("shape")
    if not isinstance(shape, list):
        raise BadRequest(f"Expected `shape` of input {name[:40]!r} to be a list of whole numbers.")
    sizes = shape_of(shape, name)
    size = _object(entry.get("parameters"), "parameters").get("binary_data_size")
    if size is None:
        return Tensor(name, datatype, sizes, _from_json(entry.get("data"), datatype, limits)), 0
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest) - at:
        raise BadRequest(
            f"Expected binary_data_size of input {name[:40]!r} from 0 to {len(rest) - at}, which is what is left of "
            f"the body; received {shown(size)}."
        )
    return Tensor(name, datatype, sizes, rest[at : at + size]), size


def _from_json(data: object, datatype: str, limits: BodyLimits) -> Data:
    """Convert JSON values: images from base64, pixels from numbers."""
    if datatype == "BYTES" and isinstance(data, list):
        return at_most(limits.max_images, (_encoded(one, limits.max_image_bytes) for one in data))
    if datatype == "UINT8" and isinstance(data, list):
        try:
            return _flat(data)
        except (ValueError, TypeError):
            raise BadRequest("Expected UINT8 data to be whole numbers from 0 to 255, of one depth.") from None
    raise BadRequest(_EXPECTED_DATA)


def _encoded(one: object, max_bytes: int) -> bytes | RequestRejected:
    if not isinstance(one, str):
        raise BadRequest(_EXPECTED_DATA)
    return from_data_uri(one, max_bytes) if is_data_uri(one) else from_base64(one, max_bytes)


def _flat(numbers: list[Any]) -> bytes:
    """Return the numbers of a list, or of lists in lists of one depth, as bytes; NumPy takes four times as long."""
    inner: Iterable[Any] = numbers
    first = numbers[0] if numbers else None
    for _ in range(_MOST_LEVELS):
        if not isinstance(first, list):
            return bytes(inner)
        inner = chain.from_iterable(inner)
        first = first[0] if first else None
    raise ValueError


def _write(body: _Body, model: str, version: int, tensors: Sequence[OutputTensor]) -> Response:
    """Write a response; the bytes of outputs asked for as binary follow the JSON."""
    entries: list[dict[str, object]] = []
    rest = []
    for tensor in tensors:
        entry: dict[str, object] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if body.binary.get(tensor.name, body.binary_by_default):
            entry["parameters"] = {"binary_data_size": len(tensor.data)}
            rest.append(tensor.data)
        elif tensor.datatype == "BYTES":
            entry["data"] = texts(tensor)
        else:
            values = np.frombuffer(tensor.data, _NUMPY[tensor.datatype])
            # Half precision as float32: JSON does not know it.
            entry["data"] = values.astype(np.float32) if tensor.datatype == "FP16" else values
        entries.append(entry)
    answer = {"model_name": model, "model_version": str(version), "outputs": entries}
    if body.identity is not None:
        answer["id"] = body.identity
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not rest:
        return Response(head, media_type="application/json")
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return Response(b"".join((head, *rest)), headers=headers, media_type="application/octet-stream")


def _object(value: object, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"Expected `{name}` to be an object.")
    return value


def _objects(value: object, name: str) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise BadRequest(f"Expected `{name}` to be a list of objects.")
    return value


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"Expected `{name}` of each tensor to be a string.")
    return value


_LIST: Mapping[str, Any] = {"type": "array", "items": {"type": "object"}}

_INFER = described(
    "KServeInfer",
    {
        "id": {**TEXT, "description": "Comes back in the answer."},
        "parameters": {
            "type": "object",
            "description": "normalize, dimensions, datatype, cache, priority; binary_data_output.",
        },
        "inputs": {**_LIST, "description": "One tensor, `image`: BYTES [N] (in JSON as base64) or UINT8 [N, H, W, C]."},
        "outputs": {**_LIST, "description": "Names of the model's outputs, or `embedding`; none for the default one."},
    },
    {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [RED_PNG]}]},
    {"model_name": TEXT, "model_version": TEXT, "outputs": _LIST},
    {"error": TEXT},
    shared={},
)
"""Of `infer`; tensors may also follow the JSON as bytes, then a header has the length of the JSON."""
_INFER["responses"][200]["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}


def _model_paths(model: str) -> Mapping[str, dict[str, Any]]:
    """Return the paths of a model with their parameters in the document; `model` is the example."""
    named = [_in_path("model", "The model's name.", model)]
    return {
        "/v2/models/{model}": {"parameters": named},
        "/v2/models/{model}/versions/{version}": {
            "parameters": [*named, _in_path("version", "Which of its versions.", "1")]
        },
    }


def _in_path(name: str, description: str, example: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": TEXT,
        "example": example,
    }


class _Endpoints:
    """The protocol's endpoints."""

    def __init__(self, handler: CompatHandler) -> None:
        self._handler = handler
        self._models = handler.intake.models
        self._ready = handler.intake.ready

    async def infer(self, request: Request) -> Response:
        """Embed the images of the input tensor."""
        model, version = request.path_params["model"], request.path_params.get("version", "")
        header_length = request.headers.get(_HEADER)
        return await self._handler.serve(request, lambda body: self._parsed(model, version, body, header_length))

    def _parsed(self, model: str, version: str, raw: bytes | bytearray, header_length: str | None) -> CompatRequest:
        limits = self._handler.limits
        body = _read_body(raw, header_length, limits)
        for name in body.parameters:
            if name not in PARAMETERS:
                raise unknown_name(name, PARAMETERS)
        images = images_in(one_input(body.inputs), max_images=limits.max_images, max_bytes=limits.max_image_bytes)
        known = list(self._models.card(model).outputs)
        asked = read_request(model, version, body.outputs, body.parameters, known, body.classification)

        def answer(embedded: Embedded) -> Response:
            return _write(body, embedded.card.name, embedded.card.version, asked.answers(embedded))

        return CompatRequest(
            asked.request,
            images,
            answer,
            dimensions=asked.dimensions,
            normalize=asked.normalize,
            int8=asked.datatype == "INT8",
        )

    async def server(self) -> dict[str, object]:
        """Say what this is."""
        return {"name": kserve.NAME, "version": __version__, "extensions": list(kserve.EXTENSIONS)}

    async def live(self) -> dict[str, bool]:
        """Say that the process is alive."""
        return {"live": True}

    async def ready(self) -> dict[str, bool]:
        """Say whether anything can be answered, as /readyz does."""
        if not self._ready():
            troubles = [trouble for trouble in self._handler.intake.troubles().values() if trouble is not None]
            raise ModelNotReady(troubles[0] if troubles else "No model is served yet.", retry_after=2)
        # kserve's client reads both keys from here.
        return {"live": True, "ready": True}

    async def models(self) -> dict[str, object]:
        """List the models."""
        return {"models": list(self._models.cards())}

    async def model_ready(self, request: Request) -> dict[str, object]:
        """Say whether a model answers."""
        model = request.path_params["model"]
        trouble = of_model(model, self._models.readiness())
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
            "platform": kserve.PLATFORM,
            "inputs": [tensor._asdict() for tensor in kserve.INPUTS],
            "outputs": [tensor._asdict() for tensor in kserve.outputs_of(card)],
        }

    async def _card(self, request: Request) -> ModelCard:
        named = request.path_params
        return await kserve.card_of(self._models, named["model"], named.get("version", ""))


def _add_routes(router: APIRouter, handler: CompatHandler) -> None:
    ends = _Endpoints(handler)
    router.add_api_route("/v2", ends.server, summary="Say what this is")
    router.add_api_route("/v2/health/live", ends.live, summary="Is the process alive?")
    router.add_api_route("/v2/health/ready", ends.ready, summary="Can it embed?")
    router.add_api_route("/v2/models", ends.models, summary="List the models")
    for place, named in _model_paths(handler.intake.default_model or "lite0").items():
        router.add_api_route(place, ends.model, summary="Describe a model", openapi_extra=named)
        router.add_api_route(f"{place}/ready", ends.model_ready, summary="Does a model answer?", openapi_extra=named)
        router.add_api_route(
            f"{place}/infer",
            ends.infer,
            methods=["POST"],
            summary="Embed",
            response_class=Response,
            responses=_INFER["responses"],
            openapi_extra={**_INFER["openapi_extra"], **named},
        )


DIALECT = Dialect(
    "kserve",
    "KServe v2, Triton",
    ("/v2", "/v2/health/", "/v2/models", "/v2/models/"),
    _add_routes,
    inference_error,
    frozenset({"/v2", "/v2/health/live", "/v2/health/ready"}),
)
"""The protocol at /v2; Cohere's /v2/embed is another dialect's."""
