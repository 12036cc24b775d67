"""HTTP over the core: authenticate, decode, ask the core, encode."""
