"""The load: an HTTP client in a process of its own, controlled over its standard input. See docs/decisions/0050."""
