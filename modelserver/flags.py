"""The command line as a table: TensorFlow Serving's own flags, so that one list serves both, and a few more."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

Value = bool | int | float | str


class Meaning(Enum):
    """What a flag does here."""

    SHARED = "as in TensorFlow Serving"
    OURS = "this server only; TensorFlow Serving does not know it"
    NONE = "accepted, without meaning here"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag; its kind is that of its default."""

    name: str
    default: Value
    help: str = ""
    meaning: Meaning = Meaning.SHARED


def _ours(name: str, default: Value, text: str) -> Flag:
    return Flag(name, default, text, Meaning.OURS)


def _idle(name: str, default: Value = "") -> Flag:
    return Flag(name, default, meaning=Meaning.NONE)


FLAGS: Mapping[str, Flag] = {
    row.name: row
    for row in (
        Flag("port", 8500, "TCP port of the gRPC API; 0 for none."),
        _ours("host", "127.0.0.1", "Address that the port is bound to. TensorFlow Serving binds 0.0.0.0."),
        Flag("grpc_socket_path", "", "Unix socket of the gRPC API, beside or instead of the port."),
        Flag("ssl_config_file", "", "Encrypt gRPC: an SSLConfig in protobuf's text format, PEM inline."),
        Flag("rest_api_port", 0, "TCP port of status, metadata and metrics over HTTP; 0 for none."),
        Flag("monitoring_config_file", "", "Offer metrics there: a MonitoringConfig in protobuf's text format."),
        Flag("grpc_max_threads", 0, "Most calls at a time, more are refused; 0 for no limit (there: 4 per core)."),
        Flag("grpc_channel_arguments", "", "Options of the gRPC server, as k=v,k=v."),
        _ours("models_dir", "", "Serve every model of DIR, as DIR/<model>/<version>/, and those that come later."),
        Flag("model_name", "default", "Name of the model in --model_base_path."),
        Flag("model_base_path", "", "Serve one model: the directory that holds its versions."),
        Flag("model_config_file", "", "Serve the models of a ModelServerConfig, in protobuf's text format."),
        Flag("model_config_file_poll_wait_seconds", 0.0, "Time between two readings of that file; 0 reads it once."),
        Flag("allow_version_labels_for_unavailable_models", False, "Let new labels name versions not loaded yet."),
        Flag("file_system_poll_wait_seconds", 1.0, "Time between two looks at the disk; 0 looks once, <0 never."),
        Flag("max_num_load_retries", 5, "How often a version that does not load is tried again."),
        Flag("load_retry_interval_micros", 60_000_000, "Time between two tries, in microseconds."),
        Flag("num_load_threads", 0, "Loads at a time; here, 0 means 1, never on the thread that serves."),
        Flag("enable_model_warmup", True, "Run a version's warm-up requests before it is available."),
        Flag("num_request_iterations_for_warmup", 0, "How often each warm-up request is run; 0 means once."),
        _ours(
            "engine", "tensorflow", "What computes: tensorflow, or openvino where it is installed; see docs/engines.md."
        ),
        Flag("saved_model_tags", "serve", "Tags of the graph to load, separated by commas."),
        Flag("enable_batching", False, "Run concurrent requests together."),
        Flag("batching_parameters_file", "", "How to batch: a BatchingParameters in protobuf's text format."),
        Flag("enable_per_model_batching_parameters", False, "Batch a version as its batching_params.pbtxt says."),
        Flag("tensorflow_session_parallelism", 0, "Threads for both kinds of parallelism; 0 for one per core."),
        Flag(
            "tensorflow_intra_op_parallelism",
            0,
            "Threads within an operation; 0 for one per core, or one if light.",
        ),
        Flag("tensorflow_inter_op_parallelism", 0, "Operations at a time; 0 for one per core."),
        Flag("mixed_precision", "", "'bfloat16' computes in bfloat16 where the processor can."),
        Flag("enable_serialization_as_tensor_content", False, "Answer with raw bytes instead of repeated values."),
        Flag("enable_grpc_healthcheck_service", False, "Offer grpc.health.v1.Health."),
        _ours("log_level", "info", "What is less than this is not said: debug, info, warning or error."),
        _ours("exit_with_parent", False, "End when the process that started this one does."),
        _ours("shutdown_grace_seconds", 10.0, "How long requests under way may still take after SIGTERM."),
        Flag("version", False, "Print the versions and exit."),
        _idle("rest_api_num_threads", 0),
        _idle("rest_api_timeout_in_ms", 30000),
        _idle("rest_api_enable_cors_support", False),
        _idle("num_unload_threads", 0),
        _idle("flush_filesystem_caches", True),
        _idle("tensorflow_session_config_file"),
        _idle("per_process_gpu_memory_fraction", 0.0),
        _idle("platform_config_file"),
        _idle("use_alts_credentials", False),
        _idle("enable_profiler", True),
        _idle("enable_signature_method_name_check", False),
        _idle("remove_unused_fields_from_bundle_metagraph", True),
        _idle("xla_cpu_compilation_enabled", False),
        _idle("xla_gpu_compilation_enabled", False),
        _idle("prefer_tflite_model", False),
        _idle("num_tflite_pools", 0),
        _idle("num_tflite_interpreters_per_pool", 0),
        _idle("thread_pool_factory_config_file"),
        _idle("skip_initialize_tpu", False),
    )
}
