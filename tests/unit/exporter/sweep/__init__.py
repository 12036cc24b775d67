"""Tests of exporter.sweep."""
