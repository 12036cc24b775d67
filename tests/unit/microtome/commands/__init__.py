"""The `microtome` command."""
