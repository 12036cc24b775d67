"""Tests of exporter.anatomy."""
