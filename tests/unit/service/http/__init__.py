"""The HTTP side over a fake model server: bodies, options, statuses."""
