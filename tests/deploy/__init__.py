"""What deploy/ says, held against the tools that read it and the processes that it starts."""
