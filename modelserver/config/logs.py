"""Logging: one line per event on stderr, and a throttle for messages that repeat."""

import logging
import sys
import time

LEVELS = ("debug", "info", "warning", "error")
REPEAT_SECONDS = 60.0


class _OneLine(logging.Formatter):
    """Keeps a message on one line; TensorFlow's errors have several. A traceback still follows on its own lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return super().formatMessage(record).replace("\n", " ")


def write_logs(level: str) -> logging.Logger:
    """Send this package's logs from `level` on to stderr, other packages' from warnings on; returns our logger."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log = logging.getLogger("modelserver")
    log.setLevel(level.upper())
    return log


class LogThrottle:
    """Passes a message on when it differs from the last one, or a minute after that one."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._last: tuple[str, tuple[str, ...]] | None = None
        self._logged_at = 0.0

    def write(self, level: int, message: str, *args: object) -> None:
        """Log a message at a level of ``logging``."""
        text = (message, tuple(map(str, args)))
        now = time.monotonic()
        if text == self._last and now - self._logged_at < REPEAT_SECONDS:
            return
        self._last, self._logged_at = text, now
        self._log.log(level, message, *args)
