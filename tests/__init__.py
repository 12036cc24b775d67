"""All tests: unit (in process), contract (one suite per seam), integration, e2e (real processes, real ports)."""
