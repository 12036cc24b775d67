"""Tests of exporter.split."""
