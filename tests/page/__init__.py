"""The page at /, in a real browser over a real gateway: `make test-page`."""
