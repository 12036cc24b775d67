"""The error that ends a run."""


class EmbedError(Exception):
    """The run cannot be done as asked; the message says why and what to do instead."""
