"""What other people import: the `microtome` command and the generated stubs of our wire contracts."""

__version__ = "0.1.0"
