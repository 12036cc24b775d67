"""Tests of the embedded model server, one module each; what needs a process stands in tests/contract/tfserving."""
