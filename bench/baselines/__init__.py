"""Baselines: minimal programs that do the same work as a part of the service."""
