"""OpenTelemetry traces: a span for each request and, within it, for each of its stages; sent by OTLP over HTTP.

Imported only if traces are configured, since it needs the extra `otel`. OpenTelemetry's SDK reads its own variables
(`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME` and so on):
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from time import time_ns

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.telemetry.metrics import Metrics

_PROGRAM = "microtome"
_LAST_SECONDS = 5.0
"""To send the last spans at shutdown; later ones are lost."""

_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Statuses that are a server's error: https://opentelemetry.io/docs/specs/semconv/rpc/grpc/"""


class Tracing:
    """The traces of this process."""

    def __init__(self) -> None:
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: _PROGRAM}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(_PROGRAM)
        # Without baggage: what callers put into it must not reach the model server.
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[str, str]) -> Iterator[Callable[[str, int], None]]:
        """Be in a request's span while the block runs; a `traceparent` among the headers is its parent.

        Args:
            method: of HTTP.
            path: as requested.
            headers: with names in lower case.

        Yields:
            A function to call with the route's template and the status of the response.
        """
        with self._tracer.start_as_current_span(
            method,
            self._propagator.extract(headers),
            SpanKind.SERVER,
            {"http.request.method": method, "url.path": path},
        ) as span:

            def ended(route: str, status: int) -> None:
                # The template, not the path: span names stay few.
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)
                span.set_attribute("http.response.status_code", status)
                if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    span.set_status(StatusCode.ERROR)

            yield ended

    @contextmanager
    def call(self, route: str, metadata: Mapping[str, str]) -> Iterator[Callable[[int, str], None]]:
        """Be in a gRPC call's span while the block runs; a `traceparent` among the metadata is its parent.

        Args:
            route: its name in logs and metrics.
            metadata: the caller's.

        Yields:
            A function to call with the number and the name of the call's status.
        """
        with self._tracer.start_as_current_span(
            route,
            self._propagator.extract(metadata),
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.method": route.partition(":")[2]},
            # gRPC ends calls by exceptions, most of which are not the server's errors.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:

            def ended(code: int, name: str) -> None:
                span.set_attribute("rpc.grpc.status_code", code)
                if name in _FAULTS:
                    span.set_status(StatusCode.ERROR, name)

            yield ended

    def stage(self, name: str, seconds: float) -> None:
        """Add a span for a stage that has just ended to the current request, if there is one and it is sampled."""
        if trace.get_current_span().is_recording():
            end = time_ns()
            self._tracer.start_span(name, start_time=end - int(seconds * 1e9)).end(end)

    def outgoing(self) -> Sequence[tuple[str, str]]:
        """Return the gRPC metadata that names the current span to a server."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return tuple(carrier.items())

    def metrics(self) -> "TracedMetrics":
        """Make metrics whose stages become spans, too."""
        return TracedMetrics(self)

    async def close(self) -> None:
        """Send the last spans, within a time limit."""
        sent = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        sent.start()
        await asyncio.to_thread(sent.join, _LAST_SECONDS)


class TracedMetrics(Metrics):
    """Metrics whose stages become spans, too."""

    def __init__(self, tracing: Tracing) -> None:
        super().__init__()
        self._tracing = tracing

    def stage(self, name: str, seconds: float) -> None:
        """Count a stage's duration, in seconds, and add it to the trace."""
        super().stage(name, seconds)
        self._tracing.stage(name, seconds)
