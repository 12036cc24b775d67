"""What ends `microtome rollout` with a message.

* RolloutError
  x CannotBegin  : something to change first; nothing has been changed (exit code 2)
  x VersionFailed: the new version cannot be loaded or does not answer; the old one is in use as before
  x TimedOut     : something did not happen in time; the message says what, and what state that leaves
"""


class RolloutError(Exception):
    """The message says what happened and what to do about it."""

    exit_code = 1


class CannotBegin(RolloutError):
    """The caller must change something; nothing has been changed."""

    exit_code = 2


class VersionFailed(RolloutError):
    """The new version cannot be loaded or does not answer."""


class TimedOut(RolloutError):
    """Something did not happen in time."""
