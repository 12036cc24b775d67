"""One line per event, on stderr."""

import logging
import sys


class _OneLine(logging.Formatter):
    """Keeps a message on one line; TensorFlow's errors have several. A traceback still follows on its own lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return super().formatMessage(record).replace("\n", " ")


LEVELS = ("debug", "info", "warning", "error")


def write_logs(level: str) -> logging.Logger:
    """Send our logs from `level` on to stderr and return our logger; other packages are heard from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log = logging.getLogger("modelserver")
    log.setLevel(level.upper())
    return log
