"""Tests of exporter.train."""
