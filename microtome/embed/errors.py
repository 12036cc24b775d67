"""What ends a run before its end."""


class EmbedError(Exception):
    """It cannot be done as asked; the message says why and what to do instead."""
