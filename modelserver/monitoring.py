"""Whether metrics are offered, and where: TensorFlow Serving's ``MonitoringConfig``."""

from pathlib import Path

from modelserver.errors import InvalidArgument
from modelserver.text_form import BadText, read

METRICS_PATH = "/monitoring/prometheus/metrics"

_TABLES = {
    "MonitoringConfig": ((1, "prometheus_config", "PrometheusConfig"),),
    "PrometheusConfig": ((1, "enable", "bool"), (2, "path", "string")),
}


def read_metrics_path(file: str) -> str | None:
    """Read at which path of the REST port metrics are offered; None when they are not, as without a file.

    Raises:
        InvalidArgument: The file is no ``MonitoringConfig``.
    """
    if not file:
        return None
    try:
        config = read(Path(file).read_text(encoding="utf-8"), "MonitoringConfig", _TABLES).prometheus_config
    except (OSError, UnicodeDecodeError, BadText) as error:
        raise InvalidArgument(f"Invalid protobuf file: '{file}' ({error})") from error
    return (config.path or METRICS_PATH) if config.enable else None
