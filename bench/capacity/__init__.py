"""Gateways, model servers and Redis needed for a number of images a second; see docs/capacity.md."""
