"""Tests of exporter.drawing."""
