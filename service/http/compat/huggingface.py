"""Hugging Face's image classification, as `InferenceClient(model=URL).image_classification` asks for it.

A model of images and text answers `zero_shot_image_classification`, whose parameters are labels in words.

The client posts to the URL as it is: the image's bytes, or JSON with base64 when it has parameters. The URL is
`/models/MODEL`, or `/models/MODEL/OUTPUT` for another output with classes.
https://huggingface.co/docs/inference-providers/tasks/image-classification
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from microtome.errors import BadRequest, ImageTooLarge
from service.core.classes import ClassOptions, predictions, require_classes
from service.core.ports import ModelServer
from service.core.remote_images import Image
from service.core.requests import CLASSES, Candidates, Embedded, EmbedRequest
from service.errors import shown
from service.http.bodies import BodyLimits
from service.http.compat.handler import CompatHandler, CompatRequest, Dialect
from service.http.compat.openapi import TEXT, WHOLE, an_array, an_object, one_of
from service.http.compat.parsing import image_of, json_fields
from service.http.openapi import RED_PNG
from service.http.parameters import CLASSIFY_OPTIONS, ClassifyOptions, read_options, unknown_name
from service.http.problems import Failure, problem

_FUNCTION = "function_to_apply"
_NAMES = {_FUNCTION: "function", "candidate_labels": "labels", "hypothesis_template": "template"}
"""Our names of the contract's parameters, where they are others."""

_PARAMETERS = ("top_k", *_NAMES)
_FIELDS = ("inputs", "parameters")
_IGNORED = ("options",)

_LABEL = an_object("HuggingFaceLabel", {"label": TEXT, "score": {"type": "number"}})
_BODY = an_object(
    "HuggingFaceRequest",
    {
        "inputs": {**TEXT, "description": "An image as base64, a data URI or an address."},
        "parameters": an_object(
            "HuggingFaceParameters",
            {
                "top_k": WHOLE,
                _FUNCTION: one_of("softmax", "sigmoid", "none"),
                "candidate_labels": an_array(TEXT),
                "hypothesis_template": TEXT,
            },
            (),
        ),
    },
    ("inputs",),
)


def _read(
    body: bytes | bytearray, *, model: str, output: str, models: ModelServer, limits: BodyLimits
) -> CompatRequest:
    """Parse a request's body: an image, or JSON.

    Raises:
        BadRequest: not a request of the contract.
        ServiceError: the model or output is not known, or has no classes.
    """
    image: Image
    if not body:
        raise BadRequest("Expected an image, or JSON with `inputs`; received 0 bytes.")
    if body[:64].lstrip().startswith(b"{"):
        image, parameters = _of_json(body, limits)
    elif len(body) > limits.max_image_bytes:
        image, parameters = ImageTooLarge(f"Expected at most {limits.max_image_bytes} bytes, received {len(body)}."), {}
    else:
        image, parameters = bytes(body), {}
    found = _options(parameters)
    candidates = Candidates.read(found.labels, found.template)
    # All labels are answered where a request brings its own.
    most = found.top_k if candidates is None or "top_k" in parameters else len(found.labels)
    outputs = (output,) if output else () if candidates else (CLASSES,)
    card = models.card(model)
    if candidates is None and (not output or output in card.outputs):  # an unknown one is the core's to refuse
        require_classes(card, outputs)
    request = EmbedRequest(model, outputs=outputs, candidates=candidates)
    return CompatRequest(request, [image], partial(_write, wanted=ClassOptions(most, function=found.function)))


def _of_json(body: bytes | bytearray, limits: BodyLimits) -> tuple[Image, Mapping[str, object]]:
    fields = json_fields(body, _FIELDS, _IGNORED)
    parameters = fields.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest(f"Expected `parameters` to be an object; received {shown(parameters)}.")
    for name in parameters:
        if name not in _PARAMETERS:
            raise unknown_name(name, _PARAMETERS)
    return image_of(fields.get("inputs"), limits.max_image_bytes), parameters


def _options(parameters: Mapping[str, object]) -> ClassifyOptions:
    named = {_NAMES.get(name, name): value for name, value in parameters.items()}
    read = read_options((), named, known=CLASSIFY_OPTIONS)
    return read if isinstance(read, ClassifyOptions) else ClassifyOptions()


def _write(embedded: Embedded, *, wanted: ClassOptions) -> Response:
    """Write labels with scores; none for an image that is rejected, which this contract cannot say."""
    (found,) = predictions(embedded, wanted)
    labels = [] if found.rejected else [{"label": label.label, "score": label.score} for label in found.labels]
    return Response(orjson.dumps(labels), media_type="application/json")


def _error(failure: Failure) -> Response:
    """Write a problem, and its detail once more where Hugging Face's clients look for it."""
    return problem(replace(failure, members={**failure.members, "error": failure.detail}))


def _add_routes(router: APIRouter, handler: CompatHandler) -> None:
    async def classify(request: Request) -> Response:
        """Name what an image shows, as Hugging Face's image classification does."""
        named = request.path_params
        read = partial(
            _read,
            model=named["model"],
            output=named.get("output", ""),
            models=handler.intake.models,
            limits=handler.limits,
        )
        return await handler.serve(request, read)

    binary = {"schema": {"type": "string", "format": "binary"}}
    example = {"inputs": RED_PNG, "parameters": {"top_k": 3}}
    body = {"required": True, "content": {"application/json": {"schema": _BODY, "example": example}, "image/*": binary}}
    model = handler.intake.default_model or "lite0"
    answer = {"description": "Labels, the best first.", "content": {"application/json": {"schema": an_array(_LABEL)}}}
    paths = {"/models/{model}": {"model": model}, "/models/{model}/{output}": {"model": model, "output": "classes"}}
    for path, examples in paths.items():
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": TEXT, "example": value}
            for name, value in examples.items()
        ]
        router.add_api_route(
            path,
            classify,
            methods=["POST"],
            name="image_classification" + ("_output" if "output" in examples else ""),
            summary="Classify an image",
            response_class=Response,
            responses={200: answer},
            openapi_extra={"requestBody": body, "parameters": parameters},
        )


DIALECT = Dialect("huggingface", "Hugging Face", ("/models/",), _add_routes, _error)
