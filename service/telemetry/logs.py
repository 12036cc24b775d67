"""Structured logs on stderr: text for people, JSON for machines."""

import sys
from random import getrandbits
from typing import Literal, Protocol

# structlog formats tracebacks with rich if that is installed: 4 MB, and local variables, secrets included, in the log.
# So rich is hidden while structlog is imported.
_HIDDEN = "rich"
_hidden = _HIDDEN not in sys.modules
if _hidden:
    sys.modules[_HIDDEN] = None  # type: ignore[assignment]  # means that there is no such module
try:
    import structlog
finally:
    if _hidden:
        del sys.modules[_HIDDEN]

_MAX_ID = 128

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Logger(Protocol):
    """The methods used of a structlog logger; they take an event's name and facts about it."""

    def info(self, event: str, /, **facts: object) -> object:
        """Log an event."""
        ...

    def warning(self, event: str, /, **facts: object) -> object:
        """Log an event that needs attention."""
        ...

    def exception(self, event: str, /, **facts: object) -> object:
        """Log an error with its traceback."""
        ...


def request_id(given: str) -> str:
    """Return the id of a request: the caller's if it is short printable ASCII, else a new one."""
    return given if 0 < len(given) <= _MAX_ID and given.isascii() and given.isprintable() else _new_id()


def _new_id() -> str:
    # Not a secret; the kernel's random numbers cost ten times as much.
    return f"{getrandbits(128):032x}"


def configure(form: LogFormat, level: LogLevel, *more: structlog.typing.Processor) -> Logger:
    """Configure logging for this process and return its logger.

    Args:
        form: `console` for people, `json` for machines: one object a line.
        level: the lowest level that is logged.
        more: processors that add facts to every line.
    """
    renderer = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *more,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *([structlog.processors.format_exc_info] if form == "json" else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logger: Logger = structlog.get_logger("microtome")
    return logger
