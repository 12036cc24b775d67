"""``python -m modelserver``: reads the flags, and only then imports an engine."""

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType

from microtome.parent import follow_parent
from modelserver.batching.limits import read_batching
from modelserver.config.addresses import check_addresses
from modelserver.config.logs import write_logs
from modelserver.config.options import Options, UsageError, parse, usage
from modelserver.config.text_protos import read_credentials, read_metrics_path
from modelserver.engines.openvino_runtime import import_openvino
from modelserver.errors import CannotListen, NothingToServe, ServingError, exit_status
from modelserver.models.model_config import models_of


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        argv: The arguments, without the program's name.

    Returns:
        The exit status: 0 after SIGTERM or SIGINT, 1 when the server could not start, 2 when the arguments, or files of
        settings that they name, are wrong.
    """
    if {"--help", "--helpfull", "-h"} & set(argv):
        print(usage())  # noqa: T201
        return 0
    try:
        options, ignored = parse(argv)
        if options.version:
            print(f"modelserver {version('microtome')}\n{_engines()}")  # noqa: T201
            return 0
        options.check()
    except UsageError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    # Importing an engine takes seconds: a signal meanwhile ends the process with status 0, and every check that can
    # fail comes before.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    if options.exit_with_parent:
        follow_parent()
    log = write_logs(options.log_level)
    for name in ignored:
        log.warning("--%s has no meaning here, and is ignored", name)
    try:
        _check_surroundings(options)
    except (CannotListen, NothingToServe, ServingError) as error:
        log.error("Failed to start server. Error: %s", error)  # noqa: TRY400
        return exit_status(error)

    from modelserver.application import serve  # noqa: PLC0415

    return serve(options)


def _check_surroundings(options: Options) -> None:
    """Check, before an engine is imported, everything outside the command line."""
    check_addresses(options)
    if options.engine == "openvino":
        import_openvino()
    read_batching(options)
    read_metrics_path(options.monitoring_config_file)
    read_credentials(options.ssl_config_file)
    if options.models_dir and not options.model_config_file:
        models_of(Path(options.models_dir))


def _engines() -> str:
    """Return a line for each engine, with its version."""
    lines = []
    for name, package in (("OpenVINO", "openvino"), ("TensorFlow", "tensorflow"), ("TensorFlow", "tensorflow-cpu")):
        with suppress(PackageNotFoundError):
            lines.append(f"{name} {version(package)}")
    return "\n".join(lines)


def _stop(number: int, frame: FrameType | None) -> None:
    del number, frame
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
