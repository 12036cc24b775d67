"""Other systems' own client packages, unmodified, against a real gateway: `make test-clients`."""
