"""Tests of exporter.recipe."""
