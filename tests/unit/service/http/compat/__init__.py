"""Contracts of others, over the real ASGI interface."""
