"""HTTP over the core: routes that authenticate, decode, ask the core and encode, and nothing else."""
