"""Caches of vectors: in this process, in Redis, in both, or none; and wrappers around them."""
