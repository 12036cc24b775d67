"""Traces as a collector receives them: one for each request, with its stages, from the caller to the model server."""

import json
import os
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from microtome.v1 import embedding_pb2 as pb
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub
from tests.e2e.conftest import Stack
from tests.e2e.photos import example, unseen
from tests.e2e.processes import Gateway, eventually, free_port

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE, PARENT = CALLER.split("-")[1:3]


class Collector(ThreadingHTTPServer):
    """Receives OTLP over HTTP."""

    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        super().__init__(("127.0.0.1", 0), _Receiver)

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> list[Span]:
        """All spans so far."""
        return [
            span
            for request in list(self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        """Take spans."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/traces":
            self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Proxy(grpc.GenericRpcHandler):
    """Stands before the model server, passes everything on as it came, and notes the metadata of Predicts."""

    def __init__(self, address: str) -> None:
        self.traces: list[str] = []
        self._channel = grpc.insecure_channel(address)
        self._server = grpc.server(ThreadPoolExecutor(4), handlers=[self])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Handle any method."""
        metadata = dict(details.invocation_metadata)
        if "traceparent" in metadata:
            self.traces.append(str(metadata["traceparent"]))

        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(details.method)

        def passed_on(request: bytes, _: grpc.ServicerContext) -> bytes:
            return call(request)

        return grpc.unary_unary_rpc_method_handler(passed_on)

    def close(self) -> None:
        """Stop."""
        self._server.stop(None)
        self._channel.close()


class TracedGateway(Gateway):
    """A gateway with OpenTelemetry's variables set."""

    def __init__(self, directory: Path, model_server: str, collector: str) -> None:
        self._collector = collector
        super().__init__(directory, model_server, grpc_port=free_port(), access_log="true", log_format="json")

    def environment(self) -> Mapping[str, str]:
        """Its settings, and where traces go, soon."""
        return {
            **super().environment(),
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._collector,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that listens."""
    found = Collector()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def told_of(span: Span) -> dict[str, object]:
    """Model, images and cache result of a span."""
    values = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
    return {name: values.get(f"microtome.{name}") for name in ("model", "images", "cache")}


def test_a_request_is_a_trace_from_its_caller_to_the_model_server(
    stack: Stack, collector: Collector, tmp_path: Path
) -> None:
    """The caller's trace goes on: a span of ours within it, its stages within that, and a Predict within `infer`."""
    proxy = Proxy(stack.model_server.address)
    gateway = TracedGateway(tmp_path, f"127.0.0.1:{proxy.port}", collector.url)
    try:
        gateway.start()
        with gateway.client() as client:
            photos = [unseen(example("cat")) for _ in range(5)]
            files = [("image", photo) for photo in photos]
            answer = client.post("/embed", files=files, headers={"traceparent": CALLER})
            assert 422 == client.post("/embed", content=b"no image").status_code
            for _ in range(2):
                assert 200 == client.post("/embed", content=photos[0]).status_code
            assert 200 == client.post("/embed", files=[("image", photos[1]), ("image", unseen(photos[0]))]).status_code
            assert 404 == client.post("/embed?model=other", content=photos[0]).status_code
            image = "data:image/jpeg;base64," + b64encode(photos[2]).decode()
            assert 200 == client.post("/v1/embeddings", json={"input": image}).status_code
        eventually(lambda: len([s for s in collector.spans() if s.name.startswith("POST")]) == 7, "the spans arrive")
        assert 0 == gateway.terminate()
    finally:
        gateway.destroy()
        proxy.close()
    mine = [span for span in collector.spans() if span.trace_id.hex() == TRACE]
    (request,) = (span for span in mine if span.name == "POST /embed")
    assert PARENT == request.parent_span_id.hex()
    assert Span.SPAN_KIND_SERVER == request.kind
    stages = {span.name for span in mine if span.parent_span_id == request.span_id}
    told = {entry.split(";")[0] for entry in answer.headers["server-timing"].split(", ")}
    assert {"read", "hash", "cache", "decode", "queue", "infer", "encode"} == told == stages
    assert all(request.start_time_unix_nano <= span.end_time_unix_nano <= request.end_time_unix_nano for span in mine)
    predicts = sorted(trace for trace in proxy.traces if TRACE in trace)
    infers = [span for span in mine if span.name == "infer"]
    assert predicts == sorted(f"00-{TRACE}-{span.span_id.hex()}-01" for span in infers)
    assert {Span.SPAN_KIND_CLIENT} == {span.kind for span in infers}
    assert 5 == sum(a.value.int_value for span in infers for a in span.attributes if a.key == "microtome.images")
    others = [s for s in collector.spans() if s.name.startswith("POST") and s.trace_id.hex() != TRACE]
    assert [
        {"model": "lite0", "images": 5, "cache": "miss"},
        {"model": "lite0", "images": 1, "cache": None},
        {"model": "lite0", "images": 1, "cache": "hit"},
        {"model": "lite0", "images": 1, "cache": "hit"},
        {"model": "lite0", "images": 2, "cache": "mixed"},
        {"model": "other", "images": 1, "cache": None},
        {"model": "lite0", "images": 1, "cache": "hit"},
    ] == [told_of(span) for span in (request, *sorted(others, key=lambda span: span.start_time_unix_nano))]
    assert {"/readyz"}.isdisjoint(span.name for span in collector.spans())
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines() if line.startswith("{")]
    logged = [line for line in lines if line.get("trace_id") == TRACE]
    assert [("request", "/embed", request.span_id.hex())] == [(e["event"], e["route"], e["span_id"]) for e in logged]
    assert {None} == {line.get("trace_id") for line in lines if line["event"] == "listening"}


def test_a_call_over_grpc_is_a_trace_too(stack: Stack, collector: Collector, tmp_path: Path) -> None:
    """A span of the call within its caller's, its stages within that; what the caller did wrong is no error of ours."""
    gateway = TracedGateway(tmp_path, stack.model_server.address, collector.url)
    try:
        gateway.start()
        address = f"127.0.0.1:{gateway.environment()['MICROTOME_GRPC_PORT']}"
        with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            stub = EmbeddingServiceStub(channel)
            image = pb.Image(data=unseen(example("cat")))
            stub.Embed(pb.EmbedRequest(images=[image]), metadata=(("traceparent", CALLER),))
            with pytest.raises(grpc.RpcError):
                stub.Embed(pb.EmbedRequest())
            stream = [pb.EmbedStreamRequest(id=str(n), image=each) for n, each in enumerate([image, image, image])]
            stream[2].image.data = unseen(image.data)
            assert 3 == len(list(stub.EmbedStream(iter(stream))))
        eventually(lambda: len([s for s in collector.spans() if s.name.startswith("grpc:")]) == 3, "the spans arrive")
    finally:
        gateway.destroy()
    mine = [span for span in collector.spans() if span.trace_id.hex() == TRACE]
    (call,) = (span for span in mine if span.name == "grpc:Embed")
    assert (PARENT, Span.SPAN_KIND_SERVER) == (call.parent_span_id.hex(), call.kind)
    stages = {span.name for span in mine if span.parent_span_id == call.span_id}
    assert {"hash", "cache", "decode", "queue", "infer", "encode"} == stages
    (refused,) = (span for span in collector.spans() if span.name == "grpc:Embed" and span is not call)
    codes = [{a.key: a.value.int_value for a in span.attributes}["rpc.grpc.status_code"] for span in (call, refused)]
    assert [code.value[0] for code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)] == codes
    assert Status.STATUS_CODE_ERROR != refused.status.code
    (streamed,) = (span for span in collector.spans() if span.name == "grpc:EmbedStream")
    assert {"model": "lite0", "images": 1, "cache": "miss"} == told_of(call)
    assert {"model": "lite0", "images": 3, "cache": "mixed"} == told_of(streamed)
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines() if line.startswith("{")]
    assert [call.span_id.hex()] == [line["span_id"] for line in lines if line.get("trace_id") == TRACE]


def test_traces_that_cannot_be_had_are_told_at_the_start(tmp_path: Path) -> None:
    """Without the extra a gateway that was told to trace does not start, and says what to install."""
    # As if it were not installed: a finder that knows nothing of it stands before the others.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Nothing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'opentelemetry.sdk': raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Nothing())\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
        "MICROTOME_MODEL_SERVER": "localhost:1",
        "MICROTOME_MODELS": "lite0",
        "MICROTOME_ALLOW_ANONYMOUS": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
    }
    command = [sys.executable, "-m", "service"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert 2 == done.returncode
    assert "pip install opentelemetry-sdk" in done.stderr
    assert "Traceback" not in done.stderr
