"""The `microtome` command and its sub-commands; the top layer, which alone imports the server's packages."""
