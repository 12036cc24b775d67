"""Tests of the exporter, one module each."""
