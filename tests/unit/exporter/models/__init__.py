"""Tests of exporter.models."""
