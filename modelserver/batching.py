"""How each version is batched: by the flags, by a file for all, or by a file of its own."""

from dataclasses import dataclass, replace
from pathlib import Path

from modelserver.batch_limits import BatchLimits
from modelserver.batching_parameters import BatchingParameters, parse_parameters
from modelserver.errors import InvalidArgument
from modelserver.manifest import max_batch_size, most_flops
from modelserver.options import Options
from modelserver.text_form import BadText

PER_MODEL_FILE = "batching_params.pbtxt"
ROWS_PER_THREAD = 4
"""Images that are computed at a time, for each thread that shares in it: more of them at a time do not cost less each,
but make whoever came first wait for whoever came last, and a large call beside a small one keeps its callers away so
long that no batch is ever of a good size (docs/decisions/performance.md)."""
THREAD_POOL_NAME = "model_server_batch_threads"


@dataclass(frozen=True, slots=True)
class Batching:
    """What the flags say about batching.

    Attributes:
        enabled: Whether anything is batched.
        parameters: What the file for all models says; None when there is no file.
        per_model: Whether each version says for itself.
    """

    enabled: bool = False
    parameters: BatchingParameters | None = None
    per_model: bool = False

    @property
    def threads(self) -> int | None:
        """How many batches may run at a time; None when nobody said. Never a version's own affair."""
        return self.parameters.num_batch_threads if self.parameters else None

    @property
    def thread_pool_name(self) -> str:
        """What the threads are called that run batches."""
        return self.parameters.thread_pool_name if self.parameters else THREAD_POOL_NAME

    def limits_for(self, version_dir: Path, threads: int) -> BatchLimits | None:
        """Tell how a version is batched.

        Without any file, the bound is that of the version's own manifest: the real server, which knows of no
        manifests, has 1,000. A version whose manifest says what an image costs is computed in parts.

        Args:
            version_dir: Where it is.
            threads: How many share in computing one of its batches.

        Returns:
            Its limits, or None when every request runs by itself.

        Raises:
            InvalidArgument: A file is wrong; the version cannot be loaded.
        """
        if not self.enabled:
            return None
        if self.per_model:
            path = version_dir / PER_MODEL_FILE
            return BatchLimits.of(_read(path)) if path.is_file() else None
        if self.parameters:
            return BatchLimits.of(self.parameters)
        size = max_batch_size(version_dir)
        limits = BatchLimits(size) if size else BatchLimits()
        # A SavedModel that does not say what an image costs is somebody's of which nothing is known.
        return limits if most_flops(version_dir) is None else _in_parts(limits, threads)


def read_batching(options: Options) -> Batching:
    """Read the flags, and the file that they name.

    Raises:
        InvalidArgument: The file is not a ``BatchingParameters``, or stands there without ``--enable_batching``.
    """
    file = options.batching_parameters_file
    if file and not options.enable_batching:
        raise InvalidArgument(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    parameters = _read(Path(file)) if file else None
    if parameters and parameters.num_batch_threads is not None and parameters.num_batch_threads < 1:
        raise InvalidArgument(f"num_batch_threads must be positive; was {parameters.num_batch_threads}")
    return Batching(options.enable_batching, parameters, options.enable_per_model_batching_parameters)


def _in_parts(limits: BatchLimits, threads: int) -> BatchLimits:
    """Let as many rows wait as before, but compute few of them at a time, and those at once."""
    rows = ROWS_PER_THREAD * threads
    if rows >= limits.max_batch_size:
        return limits
    parts = -(-limits.max_batch_size // rows)
    return replace(
        limits,
        max_enqueued_batches=limits.max_enqueued_batches * parts,
        timeout=0.0,
        splits=True,
        largest_batch=rows,
    )


def _read(path: Path) -> BatchingParameters:
    try:
        return parse_parameters(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, BadText) as error:
        raise InvalidArgument(f"Invalid protobuf file: '{path}' ({error})") from error
