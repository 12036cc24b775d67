"""Tests of exporter.savedmodel."""
