"""The `microtome` command and its supervisor, over small real processes in place of the large ones."""
