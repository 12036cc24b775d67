"""A complaint that comes with every look at a directory, said at once when it is new and then once a minute."""

import logging
import time

REPEAT_SECONDS = 60.0


class RecurringLog:
    """Passes a message on when it differs from the last one, or when that is a minute ago."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._last: tuple[str, tuple[object, ...]] | None = None
        self._said_at = 0.0

    def error(self, message: str, *args: object) -> None:
        """Say it as an error."""
        self._say(logging.ERROR, message, args)

    def warning(self, message: str, *args: object) -> None:
        """Say it as a warning."""
        self._say(logging.WARNING, message, args)

    def _say(self, level: int, message: str, args: tuple[object, ...]) -> None:
        words = (message, tuple(map(str, args)))
        now = time.monotonic()
        if words == self._last and now - self._said_at < REPEAT_SECONDS:
            return
        self._last, self._said_at = words, now
        self._log.log(level, message, *args)
