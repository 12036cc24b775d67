"""What the gateway tells about itself: metrics and logs."""

import os
import re
from importlib.util import find_spec

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def traces_wanted() -> bool:
    """Whether OpenTelemetry's variables name an endpoint for traces; its SDK reads its other variables."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    return exporter == "otlp" or (not exporter and any(os.environ.get(name) for name in _ENDPOINTS))


def trace_faults() -> list[str]:
    """Return a line for each variable of OpenTelemetry's that would end in lost traces or in a traceback of its SDK."""
    if not traces_wanted():
        return []
    told = [(name, os.environ[name]) for name in _ENDPOINTS if os.environ.get(name)]
    faults = [
        f"{name}: expected an address such as http://collector:4318; received {value[:80]!r}"
        for name, value in told
        if not re.fullmatch(r"https?://\S+", value)
    ]
    faults += [
        f"{name}: expected a whole number; received {value[:80]!r}"
        for name, value in os.environ.items()
        if name.startswith("OTEL_BSP_") and not value.isdecimal()
    ]
    if not _can_trace():
        faults.append(
            "OTEL_EXPORTER_OTLP_ENDPOINT: traces need OpenTelemetry, which is not installed: pip install "
            "opentelemetry-sdk opentelemetry-exporter-otlp-proto-http; or set OTEL_TRACES_EXPORTER=none"
        )
    return faults


def _can_trace() -> bool:
    needed = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
    try:
        return all(find_spec(name) is not None for name in needed)
    except ModuleNotFoundError:
        return False
