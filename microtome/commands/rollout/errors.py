"""Errors that end `microtome rollout` with a message.

* RolloutError
  x CannotBegin  : the caller must change something; nothing has been changed (exit code 2)
  x VersionFailed: the new version cannot be loaded or does not answer; the old one is in use as before
  x TimedOut     : a step took too long; the message says which, and the state that this leaves
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
    """A step took too long."""
