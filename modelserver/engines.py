"""Which runtime computes: chosen once, for the whole process."""

from modelserver.engine import Engine
from modelserver.options import Options
from modelserver.tensorflow_engine import SessionSettings, TensorFlowEngine


def open_engine(options: Options) -> Engine:
    """Make the engine that the flags ask for.

    The flags that say how many threads TensorFlow has, say it to OpenVINO too: ``intra_op`` is how many there are,
    ``inter_op`` how many batches are computed side by side on them.

    Raises:
        FailedPrecondition: It is not installed.
    """
    both = options.tensorflow_session_parallelism
    intra_op = both or options.tensorflow_intra_op_parallelism
    inter_op = both or options.tensorflow_inter_op_parallelism
    tensorflow = TensorFlowEngine(
        SessionSettings(
            intra_op_threads=intra_op,
            inter_op_threads=inter_op,
            mixed_precision=options.mixed_precision,
            tags=tuple(options.saved_model_tags.split(",")),
        )
    )
    if options.engine == "tensorflow":
        return tensorflow
    # Imported only when asked for: it is optional.
    from modelserver.openvino_engine import OpenVinoEngine  # noqa: PLC0415
    from modelserver.openvino_runtime import OpenVinoSettings  # noqa: PLC0415

    settings = OpenVinoSettings(
        threads=intra_op,
        streams=inter_op or OpenVinoSettings().streams,
        mixed_precision=options.mixed_precision,
    )
    return OpenVinoEngine(settings, tensorflow)
