"""How TensorFlow runs a graph that is whole before its first run and never changes: with few copies of its weights."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2


def lean(*, threads: int = 0) -> tf.compat.v1.ConfigProto:
    """Return a session's configuration; what is computed is the same, to the last bit, as without it.

    Args:
        threads: Within an operation; 0 for as many as there are cores.
    """
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads)
    # The session keeps neither the graph that it was given nor its parts, as TensorFlow Serving's does not.
    config.experimental.optimize_for_static_graph = True
    config.experimental.disable_output_partition_graphs = True
    # What this pass would save is memory of GPUs; looking for that holds the weights twice more, in a first run's peak.
    config.graph_options.rewrite_options.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    return config
