"""Tests of exporter.features."""
