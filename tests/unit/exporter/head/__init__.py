"""Tests of exporter.head."""
