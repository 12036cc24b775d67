"""What the server was told to do, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from modelserver.command_line import UsageError
from modelserver.flags import FLAGS, Meaning, Value
from modelserver.logs import LEVELS

ENGINES = ("tensorflow", "openvino")


@dataclass(frozen=True, slots=True)
class Options:
    """The flags that mean something here; ``modelserver.flags`` says what. Times are in seconds, or as named."""

    port: int
    host: str
    grpc_socket_path: str
    ssl_config_file: str
    rest_api_port: int
    monitoring_config_file: str
    grpc_max_threads: int
    grpc_channel_arguments: str
    models_dir: str
    model_name: str
    model_base_path: str
    model_config_file: str
    model_config_file_poll_wait_seconds: float
    allow_version_labels_for_unavailable_models: bool
    file_system_poll_wait_seconds: float
    max_num_load_retries: int
    load_retry_interval_micros: int
    num_load_threads: int
    enable_model_warmup: bool
    num_request_iterations_for_warmup: int
    engine: str
    saved_model_tags: str
    enable_batching: bool
    batching_parameters_file: str
    enable_per_model_batching_parameters: bool
    tensorflow_session_parallelism: int
    tensorflow_intra_op_parallelism: int
    tensorflow_inter_op_parallelism: int
    mixed_precision: str
    enable_serialization_as_tensor_content: bool
    enable_grpc_healthcheck_service: bool
    log_level: str
    exit_with_parent: bool
    shutdown_grace_seconds: float
    version: bool

    @classmethod
    def of(cls, given: Mapping[str, Value]) -> Self:
        """Fill in the defaults.

        Raises:
            UsageError: The flags contradict each other, or say too little.
        """
        values: dict[str, Any] = {field.name: given.get(field.name, FLAGS[field.name].default) for field in fields(cls)}
        options = cls(**values)
        options._check()
        return options

    def _check(self) -> None:
        if self.version:
            return
        self._check_addresses()
        sources = [name for name in ("models_dir", "model_base_path", "model_config_file") if getattr(self, name)]
        if not sources:
            raise UsageError("Nothing to serve: expected --models_dir, --model_base_path or --model_config_file")
        if "models_dir" in sources and len(sources) > 1:
            raise UsageError(f"Expected one of --models_dir and --{sources[1]}. Received: both")
        if self.model_base_path and not Path(self.model_base_path).is_absolute():
            raise UsageError(f"Expected --model_base_path to be absolute. Received: {self.model_base_path!r}")
        threads = (self.tensorflow_intra_op_parallelism, self.tensorflow_inter_op_parallelism)
        if self.tensorflow_session_parallelism and any(threads):
            raise UsageError("--tensorflow_session_parallelism excludes its intra_op and inter_op variants")
        if self.mixed_precision not in {"", "bfloat16"}:
            raise UsageError(f"Expected --mixed_precision=bfloat16. Received: {self.mixed_precision!r}")
        self._check_engine()
        if self.log_level not in LEVELS:
            raise UsageError(f"Expected --log_level to be one of {', '.join(LEVELS)}. Received: {self.log_level!r}")
        for pair in filter(None, self.grpc_channel_arguments.split(",")):
            if "=" not in pair:
                raise UsageError(f"Expected --grpc_channel_arguments=k=v,k=v. Received: {pair!r}")

    def _check_engine(self) -> None:
        if self.engine not in ENGINES:
            raise UsageError(f"Expected --engine to be one of {', '.join(ENGINES)}. Received: {self.engine!r}")
        if self.engine == "openvino" and self.saved_model_tags != "serve":
            raise UsageError(
                f"Expected --saved_model_tags=serve with --engine=openvino. Received: {self.saved_model_tags!r}"
            )

    def _check_addresses(self) -> None:
        for name in ("port", "rest_api_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise UsageError(f"Expected --{name} between 0 and 65535. Received: {getattr(self, name)}")
        if not self.port and not self.grpc_socket_path:
            raise UsageError("Nowhere to listen: expected --port or --grpc_socket_path")
        if self.port and self.port == self.rest_api_port:
            raise UsageError(f"Expected --rest_api_port to differ from --port. Received: {self.port} for both")


def without_meaning(given: Mapping[str, Value]) -> list[str]:
    """List the flags that were given and do nothing here."""
    return [name for name in given if FLAGS[name].meaning is Meaning.NONE]
