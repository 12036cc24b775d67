"""Tests of exporter.verify."""
