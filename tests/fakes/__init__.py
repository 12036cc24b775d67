"""Stand-ins for what unit tests cannot wait for. Each passes the contract suite of the real thing in tests/contract."""
