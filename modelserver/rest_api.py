"""TensorFlow Serving's REST API without a transport: GETs of status and metadata, and nothing else.

``:predict`` is not offered: pixels as JSON cost ten to a hundred times as much, and the gateway speaks gRPC. It answers
501, so that a client learns that the server, not its request, is to blame.
"""

import json
import re
import time
from dataclasses import dataclass

from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from modelserver.catalogue import Catalogue
from modelserver.errors import Code, InvalidArgument, ServingError, Unimplemented
from modelserver.metadata import SIGNATURE_DEF, model_metadata, model_status
from modelserver.metrics import Metrics

_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_INFERENCE = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<method>classify|regress|predict)", re.IGNORECASE)
_MODEL = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?", re.IGNORECASE)
_LARGEST_VERSION = 2**63 - 1

HTTP_STATUS = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the caller."""

    status: int
    body: str
    media_type: str = "application/json"


class RestApi:
    """Answers calls under ``/v1/``, and counts each of them, probes included.

    Args:
        catalogue: Where models are found.
        metrics: Where calls are counted.
    """

    def __init__(self, catalogue: Catalogue, metrics: Metrics) -> None:
        self._catalogue = catalogue
        self._metrics = metrics

    def answer(self, method: str, path: str) -> Answer:
        """Answer one call, in JSON whatever happens."""
        inference, model = _INFERENCE.fullmatch(path), _MODEL.fullmatch(path)
        match = (inference if method == "POST" else None) or (model if method == "GET" else None)
        name = match["name"] or "" if match else ""
        began, code = time.monotonic(), Code.OK
        try:
            if match is None:
                raise InvalidArgument(f"Malformed request: {method} {path}")
            if match is inference:
                raise Unimplemented(f"{match['method']} over REST is not implemented; use gRPC")
            body = self._about(match)
        except ServingError as error:
            code, body = error.code, f'{{ "error": {json.dumps(error.message)} }}'
        self._metrics.request(name, code.name)
        if code is Code.OK:
            self._metrics.answered(name, "", "REST", time.monotonic() - began)
        return Answer(HTTP_STATUS[code], body)

    def _about(self, match: re.Match[str]) -> str:
        if not match["name"]:
            raise InvalidArgument("Missing model name in request.")
        spec = _model_spec(match)
        if match["metadata"]:
            request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURE_DEF])
            return _metadata_json(model_metadata(self._catalogue, request))
        return _json(model_status(self._catalogue, get_model_status_pb2.GetModelStatusRequest(model_spec=spec)))


def _model_spec(match: re.Match[str]) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=match["name"])
    if match["version"]:
        if int(match["version"]) > _LARGEST_VERSION:
            raise InvalidArgument(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(match["version"])
    elif match["label"]:
        spec.version_label = match["label"]
    return spec


def _metadata_json(response: get_model_metadata_pb2.GetModelMetadataResponse) -> str:
    """Write metadata with the signatures unpacked, as the real server does, which never prints the ``Any``."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[SIGNATURE_DEF].Unpack(signatures)
    return f'{{\n"model_spec":{_json(response.model_spec)},\n"metadata": {{"signature_def": {_json(signatures)}}}\n}}\n'


def _json(message: Message) -> str:
    text = json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=1
    )
    return f"{text}\n"
