"""Estimate and limit the memory that an export takes.

Each stage of an export holds several copies of the weights for a moment. glibc keeps freed memory that does not fit the
next stage's needs, so the peaks add up unless it is returned; docs/backbones.md lists what an export needs.
"""

import contextlib
import ctypes
import gc
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2

_COPIES = 9
"""Of the weights, when a session first optimises their graph; measured for ConvNeXt."""
_TENSORFLOW = 600_000_000
"""Bytes of TensorFlow itself."""


def estimated(params: int, params_to_cut: int) -> int:
    """Return the least memory that an export takes, in bytes; large inputs and several outputs take more.

    Args:
        params: Weights of the whole backbone, which Keras holds.
        params_to_cut: The weights among them that the outputs need.
    """
    return _TENSORFLOW + 4 * (params + _COPIES * params_to_cut)


def available() -> int | None:
    """Return the available memory in bytes, within the container's limit; None where the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    free = 1024 * int(kilobytes)
    try:
        most, used = (
            Path("/sys/fs/cgroup", name).read_text(encoding="ascii") for name in ("memory.max", "memory.current")
        )
        return min(free, int(most) - int(used))
    except (OSError, ValueError):  # not in a control group, or its limit is `max`
        return free


def release() -> None:
    """Collect garbage and return free memory to the system (glibc only)."""
    gc.collect()  # TensorFlow's graphs contain reference cycles
    with contextlib.suppress(AttributeError, OSError):  # musl, macOS
        ctypes.CDLL(None).malloc_trim(0)


def lean_session(*, threads: int = 0, gpu: bool = False) -> tf.compat.v1.ConfigProto:
    """Return a session configuration with few copies of the weights, for a graph that is complete at its first run.

    The results are bitwise the same as with the default configuration. It runs on the CPU unless told otherwise: TF32
    on a GPU exceeds the error that we promise, so the caller switches that off first.

    Args:
        threads: Within an operation; 0 for the number of cores.
        gpu: Whether to run on the first GPU, taking its memory as it is needed.
    """
    devices = {} if gpu else {"GPU": 0}
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, device_count=devices)
    # The session keeps neither its graph nor the graph's partitions, as in TensorFlow Serving.
    config.experimental.optimize_for_static_graph = True
    config.experimental.disable_output_partition_graphs = True
    # This pass saves GPU memory, and holds two more copies of the weights during the first run.
    config.gpu_options.allow_growth = True  # beside a model server, which may hold the most of it
    config.graph_options.rewrite_options.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    return config
