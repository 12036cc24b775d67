"""Errors that end `microtome up` with a message.

* UpError
  x CannotStart       : the caller must change something; nothing has been started (exit code 2)
  x ExportFailed      : the exporter ended with an error
  x ModelServerFailed : the model server dies at every start
  x GatewayEnded      : the gateway ended by itself
"""


class UpError(Exception):
    """The message says what happened and what to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class CannotStart(UpError):
    """The caller must change something; nothing has been started."""

    exit_code = 2


class ExportFailed(UpError):
    """The exporter ended with an error, which it has written to the terminal itself."""


class ModelServerFailed(UpError):
    """The model server died several times in a row without opening its socket."""


class GatewayEnded(UpError):
    """The gateway ended without a request to stop; the exit code is the gateway's."""
