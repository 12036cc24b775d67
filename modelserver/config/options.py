"""The command line: TensorFlow Serving's flags, so that one argument list starts either server, and a few more."""

import difflib
from argparse import SUPPRESS, Action, ArgumentParser, ArgumentTypeError, HelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import inf, isfinite
from pathlib import Path
from typing import Any, NoReturn

from modelserver.config.logs import LEVELS

ENGINES = ("auto", "openvino", "tensorflow")
OWN = " [not in TensorFlow Serving]"
"""Ends the help of flags that TensorFlow Serving does not have."""

LARGEST_REQUEST_BYTES = 2**31 - 2**17
"""Protobuf's limit of a message, with room for what is not a tensor."""

IGNORED = (
    "enable_profiler", "enable_signature_method_name_check", "flush_filesystem_caches",
    "num_tflite_interpreters_per_pool", "num_tflite_pools", "num_unload_threads",
    "per_process_gpu_memory_fraction", "platform_config_file", "prefer_tflite_model",
    "remove_unused_fields_from_bundle_metagraph", "rest_api_enable_cors_support", "rest_api_num_threads",
    "rest_api_timeout_in_ms", "skip_initialize_tpu", "tensorflow_session_config_file",
    "thread_pool_factory_config_file", "use_alts_credentials", "xla_cpu_compilation_enabled",
    "xla_gpu_compilation_enabled",
)  # fmt: skip
"""TensorFlow Serving's flags that are accepted with any value and do nothing; the log names those that are given."""


class UsageError(Exception):
    """The command line is wrong; the text says what was expected."""


def _flag(default: Any, text: str, choices: Sequence[str] | None = None) -> Any:  # noqa: ANN401, as dataclasses.field
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True, slots=True)
class Options:
    """The flags, with their defaults."""

    port: int = _flag(8500, "TCP port of the gRPC API; 0 for none.")
    host: str = _flag("127.0.0.1", f"Address that the port is bound to. TensorFlow Serving binds 0.0.0.0.{OWN}")
    grpc_socket_path: str = _flag("", "Unix socket of the gRPC API, in addition to the port or instead of it.")
    ssl_config_file: str = _flag("", "Encrypt gRPC: an SSLConfig in protobuf's text format, PEM inline.")
    rest_api_port: int = _flag(0, "TCP port of status, metadata and metrics over HTTP; 0 for none.")
    monitoring_config_file: str = _flag("", "Offer metrics there: a MonitoringConfig in protobuf's text format.")
    grpc_max_threads: int = _flag(0, "Most calls at a time, more are refused; 0 for no limit (there: 4 per core).")
    max_request_bytes: int = _flag(128 << 20, f"Most bytes of a message, and of a request's tensors, decoded.{OWN}")
    max_request_rows: int = _flag(
        0, f"Most rows of a request; 0 for its version's largest batch: of its manifest, of batching, or 64.{OWN}"
    )
    grpc_channel_arguments: str = _flag("", "Options of the gRPC server, as k=v,k=v.")
    models_dir: str = _flag(
        "",
        "Serve every model of DIR, as DIR/<model>/<version>/, also those added later. With --model_config_file: serve "
        f"its models, none of which may be outside of DIR.{OWN}",
    )
    model_name: str = _flag("default", "Name of the model in --model_base_path.")
    model_base_path: str = _flag("", "Serve one model: the directory that holds its versions.")
    model_config_file: str = _flag("", "Serve the models of a ModelServerConfig, in protobuf's text format.")
    model_config_file_poll_wait_seconds: float = _flag(0.0, "Time between two readings of that file; 0 reads it once.")
    enable_reload_requests: bool = _flag(
        False,
        "Let callers replace the models by HandleReloadConfigRequest, with others below --models_dir: they decide "
        f"then which graphs run here.{OWN}",
    )
    allow_version_labels_for_unavailable_models: bool = _flag(False, "Let new labels name versions not loaded yet.")
    file_system_poll_wait_seconds: float = _flag(1.0, "Time between two looks at the disk; 0 looks once, <0 never.")
    max_num_load_retries: int = _flag(5, "How often a version that does not load is tried again.")
    load_retry_interval_micros: int = _flag(60_000_000, "Time between two tries, in microseconds.")
    num_load_threads: int = _flag(0, "Loads at a time; here, 0 means 1, never on the thread that serves.")
    enable_model_warmup: bool = _flag(True, "Run a version's warm-up requests before it is available.")
    num_request_iterations_for_warmup: int = _flag(0, "How often each warm-up request is run; 0 means once.")
    engine: str = _flag(
        "auto",
        "What computes: openvino, tensorflow, or auto: OpenVINO for each version whose golden vectors it computes, "
        f"else TensorFlow; see docs/engines.md.{OWN}",
        ENGINES,
    )
    saved_model_tags: str = _flag("serve", "Tags of the graph to load, separated by commas.")
    enable_batching: bool = _flag(False, "Run concurrent requests together.")
    batching_parameters_file: str = _flag("", "How to batch: a BatchingParameters in protobuf's text format.")
    enable_per_model_batching_parameters: bool = _flag(False, "Batch a version as its batching_params.pbtxt says.")
    tensorflow_session_parallelism: int = _flag(0, "Threads for both kinds of parallelism; 0 for one per core.")
    tensorflow_intra_op_parallelism: int = _flag(0, "Threads within an operation; 0 for one per core, or one if light.")
    tensorflow_inter_op_parallelism: int = _flag(0, "Operations at a time; 0 for one per core.")
    mixed_precision: str = _flag("", "'bfloat16' computes in bfloat16 where the processor can.", ("", "bfloat16"))
    accept_deviation: float = _flag(
        0.0, f"Serve versions that deviate so much from their golden vectors, relative L2.{OWN}"
    )
    enable_serialization_as_tensor_content: bool = _flag(False, "Answer with raw bytes instead of repeated values.")
    enable_grpc_healthcheck_service: bool = _flag(False, "Offer grpc.health.v1.Health.")
    log_level: str = _flag("info", f"Least level that is logged: {', '.join(LEVELS)}.{OWN}", LEVELS)
    exit_with_parent: bool = _flag(False, f"End when the process that started this one does.{OWN}")
    shutdown_grace_seconds: float = _flag(10.0, f"How long active requests may still take after SIGTERM.{OWN}")
    version: bool = _flag(False, "Print the versions and exit.")

    def check(self) -> None:
        """Raise UsageError when flags contradict each other, or name nothing to serve or nowhere to listen."""
        for name in ("port", "rest_api_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise UsageError(f"Expected --{name} between 0 and 65535. Received: {getattr(self, name)}")
        self._check_models()
        self._check_bounds()
        if not self.port and not self.grpc_socket_path:
            raise UsageError("Nowhere to listen: expected --port or --grpc_socket_path")
        if self.port and self.port == self.rest_api_port:
            raise UsageError(f"Expected --rest_api_port to differ from --port. Received: {self.port} for both")
        threads = (self.tensorflow_intra_op_parallelism, self.tensorflow_inter_op_parallelism)
        if self.tensorflow_session_parallelism and any(threads):
            raise UsageError("--tensorflow_session_parallelism excludes its intra_op and inter_op variants")
        if self.engine == "openvino" and self.saved_model_tags != "serve":
            raise UsageError(
                f"Expected --saved_model_tags=serve with --engine=openvino. Received: {self.saved_model_tags!r}"
            )
        for pair in filter(None, self.grpc_channel_arguments.split(",")):
            if "=" not in pair:
                raise UsageError(f"Expected --grpc_channel_arguments=k=v,k=v. Received: {pair!r}")

    def _check_models(self) -> None:
        sources = [name for name in ("models_dir", "model_base_path", "model_config_file") if getattr(self, name)]
        if not sources:
            raise UsageError("Nothing to serve: expected --models_dir, --model_base_path or --model_config_file")
        if self.models_dir and self.model_base_path:
            raise UsageError("Expected one of --models_dir and --model_base_path. Received: both")
        if self.enable_reload_requests and not self.models_dir:
            raise UsageError(
                "Expected --models_dir with --enable_reload_requests: it says where callers may load models from"
            )
        if self.model_base_path and not Path(self.model_base_path).is_absolute():
            raise UsageError(f"Expected --model_base_path to be absolute. Received: {self.model_base_path!r}")

    def _check_bounds(self) -> None:
        if not 1 <= self.max_request_bytes <= LARGEST_REQUEST_BYTES or self.max_request_rows < 0:
            raise UsageError(
                f"Expected --max_request_bytes from 1 to {LARGEST_REQUEST_BYTES} and --max_request_rows from 0. "
                f"Received: {self.max_request_bytes} and {self.max_request_rows}"
            )
        for known in fields(self):
            value = getattr(self, known.name)
            # Below 0 it has a meaning: never.
            least = -inf if known.name == "file_system_poll_wait_seconds" else 0
            if isinstance(value, int | float) and not (isfinite(value) and value >= least):
                raise UsageError(f"Expected --{known.name} to be a number from 0. Received: {value}")


def parse(argv: Sequence[str]) -> tuple[Options, list[str]]:
    """Read the arguments.

    Args:
        argv: The arguments, without the program's name. ``--name`` alone switches a boolean on.

    Returns:
        The options, and the names of ignored flags that were given.

    Raises:
        UsageError: An unknown flag, a stray word, or a value of the wrong type. The real server ignores unknown flags;
            here a typo is an error.
    """
    given, unknown = _parser().parse_known_args(argv)
    if unknown:
        name = unknown[0].partition("=")[0]
        if not name.startswith("--"):
            raise UsageError(f"Expected --flag=value. Received: {unknown[0]!r}")
        near = difflib.get_close_matches(name, [f"--{known.name}" for known in fields(Options)])
        raise UsageError(f"Unknown flag: {name}. Nearest: {', '.join(near) or 'none; --help lists all'}")
    values: Mapping[str, Any] = vars(given)
    options = {name: value for name, value in values.items() if name not in IGNORED}
    return Options(**options), [name for name in values if name in IGNORED]


def usage() -> str:
    """Return the help text: every flag with its default."""
    return _parser().format_help()


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


class _Help(HelpFormatter):
    """Shows each flag as ``--name=default``, and its help in lines of a fixed width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=8, width=120)

    def _format_action_invocation(self, action: Action) -> str:
        (option,) = action.option_strings
        default = getattr(Options(), action.dest)
        return f"{option}={str(default).lower() if isinstance(default, bool) else repr(default)}"


def _parser() -> ArgumentParser:
    parser = _Parser(
        "python -m modelserver",
        "python -m modelserver --flag=value ...",
        "Serve SavedModels with TensorFlow Serving's gRPC API.",
        f"Accepted and ignored: {', '.join(f'--{name}' for name in IGNORED)}",
        formatter_class=_Help,
        argument_default=SUPPRESS,
        add_help=False,
        allow_abbrev=False,
    )
    for known in fields(Options):
        as_boolean: Mapping[str, Any] = {"type": _boolean, "nargs": "?", "const": True}
        value = as_boolean if isinstance(known.default, bool) else {"type": type(known.default)}
        parser.add_argument(f"--{known.name}", **known.metadata, **value)
    for name in IGNORED:
        parser.add_argument(f"--{name}", nargs="?", help=SUPPRESS)
    return parser


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
        raise ArgumentTypeError(f"expected true or false, received {text!r}") from None
