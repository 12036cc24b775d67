"""The package `microtome`: client, commands, and what all processes share."""
