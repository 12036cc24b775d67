"""Where vectors are kept: in this process, in Redis, in both, or nowhere. One module, one kind or one wrapper."""
