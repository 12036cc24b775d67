"""Tests of exporter.look."""
