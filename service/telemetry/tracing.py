"""OpenTelemetry traces: a span for each request, each of its stages, and each Predict; sent by OTLP over HTTP.

Imported only if traces are configured, since it needs the extra `otel`. OpenTelemetry's SDK reads its own variables
(`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME` and so on):
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context
from http import HTTPStatus
from time import time_ns

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, StatusCode, format_span_id, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.telemetry.metrics import Metrics

_PROGRAM = "microtome"
_LAST_SECONDS = 5.0
"""To send the last spans at shutdown; later ones are lost."""

_MODEL, _IMAGES, _CACHE = "microtome.model", "microtome.images", "microtome.cache"
"""Attributes of a request's span: which model, how many images, and where all vectors came from, or `mixed`."""

_INFER = "infer"
"""The stage that is one span for a whole call of the model server."""

_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Statuses that are a server's error: https://opentelemetry.io/docs/specs/semconv/rpc/grpc/"""


def with_trace_ids(_: object, __: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """Add the ids of the current trace and span to a line of the log, by OpenTelemetry's names for logs outside it."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"], event["span_id"] = format_trace_id(context.trace_id), format_span_id(context.span_id)
    return event


class Tracing:
    """The traces of this process."""

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        """Send spans by OTLP, or give them to another processor."""
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: _PROGRAM}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(_PROGRAM)
        # Without baggage: what callers put into it must not reach the model server.
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(
        self, method: str, path: str, headers: Mapping[str, str]
    ) -> Iterator[Callable[[str, int, Mapping[str, object]], None]]:
        """Be in a request's span while the block runs; a `traceparent` among the headers is its parent.

        Args:
            method: of HTTP.
            path: as requested.
            headers: with names in lower case.

        Yields:
            A function to call with the route's template, the status of the response and the facts of the access log.
        """
        with self._tracer.start_as_current_span(
            method,
            self._propagator.extract(headers),
            SpanKind.SERVER,
            {"http.request.method": method, "url.path": path},
        ) as span:

            def ended(route: str, status: int, facts: Mapping[str, object]) -> None:
                # The template, not the path: span names stay few.
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)
                span.set_attribute("http.response.status_code", status)
                _add_model(span, facts)
                if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    span.set_status(StatusCode.ERROR)

            yield ended

    @contextmanager
    def call(
        self, route: str, metadata: Mapping[str, str]
    ) -> Iterator[Callable[[int, str, Mapping[str, object]], None]]:
        """Be in a gRPC call's span while the block runs; a `traceparent` among the metadata is its parent.

        Args:
            route: its name in logs and metrics.
            metadata: the caller's.

        Yields:
            A function to call with the number and the name of the call's status, and the facts of the access log.
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

            def ended(code: int, name: str, facts: Mapping[str, object]) -> None:
                span.set_attribute("rpc.grpc.status_code", code)
                _add_model(span, facts)
                if name in _FAULTS:
                    span.set_status(StatusCode.ERROR, name)

            yield ended

    def stage(self, name: str, seconds: float) -> None:
        """Add a span for a stage that has just ended to the current request, if there is one and it is sampled."""
        if name != _INFER and trace.get_current_span().is_recording():
            end = time_ns()
            self._tracer.start_span(name, start_time=end - int(seconds * 1e9)).end(end)

    @contextmanager
    def predict(self, model: str, images: int, callers: Sequence[Context]) -> Iterator[None]:
        """Be in the span of a call of the model server while the block runs.

        A span has one parent: the first request that is recorded. The span and the other requests' link to each other.

        Args:
            model: that is asked.
            images: in the call.
            callers: contexts of the requests whose images they are.
        """
        found = [caller.run(trace.get_current_span) for caller in callers]
        requests = list({span.get_span_context().span_id: span for span in found if span.is_recording()}.values())
        if not requests:
            yield
            return
        with self._tracer.start_as_current_span(
            _INFER,
            trace.set_span_in_context(requests[0]),
            SpanKind.CLIENT,
            {"rpc.system": "grpc", "rpc.method": "Predict", _MODEL: model, _IMAGES: images},
            links=[Link(span.get_span_context()) for span in requests[1:]],
        ) as span:
            for request in requests[1:]:
                request.add_link(span.get_span_context())
            yield

    def images(self, images: int) -> None:
        """Add images to the current request."""
        span = trace.get_current_span()
        if isinstance(span, Span) and span.is_recording():
            before = (span.attributes or {}).get(_IMAGES, 0)
            span.set_attribute(_IMAGES, images + (before if isinstance(before, int) else 0))

    def vectors(self, model: str, sources: Sequence[str]) -> None:
        """Note which model answered the current request, or a part of it, and where the vectors came from."""
        span = trace.get_current_span()
        if isinstance(span, Span) and span.is_recording():
            span.set_attribute(_MODEL, model)
            before = (span.attributes or {}).get(_CACHE)
            found = {*sources, before} - {None}
            if found:
                span.set_attribute(_CACHE, str(found.pop()) if len(found) == 1 else "mixed")

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


def _add_model(span: trace.Span, facts: Mapping[str, object]) -> None:
    """Name the model that was asked for, also when it has not answered."""
    if "model" in facts:
        span.set_attribute(_MODEL, str(facts["model"]))


class TracedMetrics(Metrics):
    """Metrics whose stages and counts become spans and attributes, too."""

    def __init__(self, tracing: Tracing) -> None:
        super().__init__()
        self._tracing = tracing

    def stage(self, name: str, seconds: float) -> None:
        """Count a stage's duration, in seconds, and add it to the trace."""
        super().stage(name, seconds)
        self._tracing.stage(name, seconds)

    def predicting(self, model: str, images: int, callers: Sequence[Context]) -> AbstractContextManager[None]:
        """Count a call of the model server, and be in its span while the block runs."""
        super().predicting(model, images, callers)
        return self._tracing.predict(model, images, callers)

    def images_arrived(self, images: int, size: int) -> None:
        """Count complete images, and add their number to the request's span."""
        super().images_arrived(images, size)
        self._tracing.images(images)

    def vectors_answered(self, model: str, sources: Sequence[str]) -> None:
        """Count the vectors of one request by where they came from, and add that to its span."""
        super().vectors_answered(model, sources)
        self._tracing.vectors(model, sources)

    def answered_again(self, model: str, cache_seconds: float) -> None:
        """Count a response of the response cache, and add where it came from to the request's span."""
        super().answered_again(model, cache_seconds)
        self._tracing.vectors(model, ["hit"])
