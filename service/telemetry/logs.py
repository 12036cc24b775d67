"""Structured logs on stderr: for people on a terminal, JSON for machines."""

import sys
from random import getrandbits
from typing import Literal, Protocol

# structlog draws tracebacks with rich wherever that is installed: 4 MB, and local variables, with secrets among them,
# in the log. While it is imported here it does not find it.
_HIDDEN = "rich"
_hidden = _HIDDEN not in sys.modules
if _hidden:
    sys.modules[_HIDDEN] = None  # type: ignore[assignment]  # as Python says that there is no such module
try:
    import structlog
finally:
    if _hidden:
        del sys.modules[_HIDDEN]

_MAX_ID = 128

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Logger(Protocol):
    """What we use of a structlog logger: an event's name, and facts about it."""

    def info(self, event: str, /, **facts: object) -> object:
        """Say what happened."""
        ...

    def warning(self, event: str, /, **facts: object) -> object:
        """Say what somebody should look at."""
        ...

    def exception(self, event: str, /, **facts: object) -> object:
        """Say what broke, with the traceback."""
        ...


def request_id(given: str) -> str:
    """Return the id under which a request is logged: the caller's if it can stand in a line, or a new one."""
    return given if 0 < len(given) <= _MAX_ID and given.isascii() and given.isprintable() else _new_id()


def _new_id() -> str:
    # Not a secret, and a tenth of what the kernel's random numbers cost.
    return f"{getrandbits(128):032x}"


def configure(form: LogFormat, level: LogLevel) -> Logger:
    """Set logging up for this process and return its logger.

    Args:
        form: `console` for people, `json` for machines: one object a line.
        level: what is less than this is not said.
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
