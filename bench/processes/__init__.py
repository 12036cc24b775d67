"""The programs that are measured: starting, pausing and watching them."""
