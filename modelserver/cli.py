"""``python -m modelserver``: reads the flags, and only then imports TensorFlow."""

import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from microtome.parent import follow_parent
from modelserver.batching import read_batching
from modelserver.command_line import UsageError, parse, usage
from modelserver.errors import ServingError
from modelserver.listening import CannotListen, check_addresses
from modelserver.logs import write_logs
from modelserver.models_directory import NothingToServe, models_of
from modelserver.monitoring import read_metrics_path
from modelserver.openvino_runtime import import_openvino
from modelserver.options import Options, without_meaning
from modelserver.tls import read_credentials


def main(argv: Sequence[str]) -> int:
    """Serve until told to stop.

    Args:
        argv: The arguments, without the program's name.

    Returns:
        The exit status: 0 after SIGTERM or SIGINT, 1 when the server could not start, 2 when the arguments are wrong.
    """
    if {"--help", "--helpfull", "-h"} & set(argv):
        print(usage())  # noqa: T201
        return 0
    try:
        given = parse(argv)
        options = Options.of(given)
    except UsageError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    if options.version:
        print(f"modelserver {version('microtome')}\nTensorFlow {version('tensorflow')}")  # noqa: T201
        return 0
    # Importing TensorFlow takes seconds: being told to stop meanwhile is no failure, and what can fail, fails before.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    if options.exit_with_parent:
        follow_parent()
    log = write_logs(options.log_level)
    for name in without_meaning(given):
        log.warning("--%s has no meaning here, and is ignored", name)
    try:
        _check_surroundings(options)
    except (CannotListen, NothingToServe, ServingError) as error:
        log.error("Failed to start server. Error: %s", error)  # noqa: TRY400
        return 1
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    from modelserver.application import serve  # noqa: PLC0415

    return serve(options)


def _check_surroundings(options: Options) -> None:
    """Find out, before TensorFlow is imported, what is wrong outside the command line."""
    check_addresses(options)
    if options.engine == "openvino":
        import_openvino()
    read_batching(options)
    read_metrics_path(options.monitoring_config_file)
    read_credentials(options.ssl_config_file)
    if options.models_dir:
        models_of(Path(options.models_dir))


def _stop(number: int, frame: FrameType | None) -> None:
    del number, frame
    sys.exit(0)
