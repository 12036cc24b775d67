"""Tests of exporter.graph."""
