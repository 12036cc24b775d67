"""The HTTP port: TensorFlow Serving's REST API for status and metadata, and the metrics, on uvicorn.

``:predict`` is not offered: pixels as JSON cost ten to a hundred times as much, and the gateway speaks gRPC. It answers
501, so that a client learns that the server, not its request, is the reason.
"""

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import uvicorn
from google.protobuf import json_format
from google.protobuf.message import Message
from grpc import StatusCode

from microtome.tfserving.v1 import serving_pb2 as pb
from modelserver.api.handlers import SIGNATURE_DEF, Handlers
from modelserver.errors import CannotListen, InvalidArgument, ServingError, Unimplemented

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_VERSION = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_INFERENCE = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<method>classify|regress|predict)", re.IGNORECASE)
_MODEL = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?", re.IGNORECASE)
_LARGEST_VERSION = 2**63 - 1
_MOST_DIGITS = 19

_HTTP_STATUS = {StatusCode.INVALID_ARGUMENT: 400, StatusCode.NOT_FOUND: 404, StatusCode.UNIMPLEMENTED: 501}
"""Every error that a request here can end with."""


class RestApp:
    """The ASGI application. Counts each call under ``/v1/``, probes included.

    Args:
        handlers: Answers requests, and has the metrics.
        metrics_path: The path of the metrics; None for none.
    """

    def __init__(self, handlers: Handlers, metrics_path: str | None) -> None:
        self._handlers = handlers
        self._metrics = handlers.metrics
        self._metrics_path = metrics_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call. Bodies are not read: no call needs one."""
        del receive
        method, path, media_type = scope["method"], scope["path"], "application/json"
        if path == self._metrics_path:
            status, body, media_type = 200, self._metrics.page(), "text/plain"
        elif path.lower().startswith("/v1/"):
            status, body = self._answer(method, path)
        else:
            status, body = 404, '{ "error": "Not Found" }'
        headers = [(b"content-type", media_type.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body.encode()})

    def _answer(self, method: str, path: str) -> tuple[int, str]:
        """Answer one call with a status and JSON."""
        inference, model = _INFERENCE.fullmatch(path), _MODEL.fullmatch(path)
        match = (inference if method == "POST" else None) or (model if method == "GET" else None)
        name = self._handlers.known(match["name"]) if match and match["name"] else ""
        began, code = time.monotonic(), StatusCode.OK
        try:
            if match is None:
                raise InvalidArgument(f"Malformed request: {method} {path}")
            if match is inference:
                raise Unimplemented(f"{match['method']} over REST is not implemented; use gRPC")
            body = self._about(match)
        except ServingError as error:
            code, body = error.code, f'{{ "error": {json.dumps(error.message)} }}'
        self._metrics.request(name, code.name)
        if code is StatusCode.OK:
            self._metrics.answered(name, "", "REST", time.monotonic() - began)
        return _HTTP_STATUS.get(code, 200), body

    def _about(self, match: re.Match[str]) -> str:
        """Return status or metadata of a model as JSON."""
        if not match["name"]:
            raise InvalidArgument("Missing model name in request.")
        spec = pb.ModelSpec(name=match["name"])
        if match["version"]:
            if len(match["version"]) > _MOST_DIGITS or int(match["version"]) > _LARGEST_VERSION:
                raise InvalidArgument(f"Failed to convert version: {match['version'][:40]} to numeric.")
            spec.version.value = int(match["version"])
        elif match["label"]:
            spec.version_label = match["label"]
        if not match["metadata"]:
            return _json(self._handlers.status(pb.GetModelStatusRequest(model_spec=spec)))
        request = pb.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURE_DEF])
        response = self._handlers.metadata(request)
        # Like the real server, print the signatures and not the ``Any`` that holds them.
        signatures = pb.SignatureDefMap.FromString(response.metadata[SIGNATURE_DEF].value)
        spec_json, signatures_json = _json(response.model_spec), _json(signatures)
        return f'{{\n"model_spec":{spec_json},\n"metadata": {{"signature_def": {signatures_json}}}\n}}\n'


def _json(message: Message) -> str:
    text = json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=1
    )
    return f"{text}\n"


class _WithoutSignals(uvicorn.Server):
    """Leaves signals to the application, which stops gRPC by the same ones."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@contextlib.asynccontextmanager
async def rest_server(app: RestApp, host: str, port: int) -> AsyncIterator[str]:
    """Serve on a port within the block, then close it once active requests are answered.

    Yields:
        The address, for the log.

    Raises:
        CannotListen: The port is not available.
    """
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise CannotListen(f"Cannot listen on {host}:{port}: {error.strerror}") from error
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, access_log=False, server_header=False, ws="none",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = _WithoutSignals(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    try:
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        await serving
