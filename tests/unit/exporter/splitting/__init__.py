"""Tests of exporter.splitting."""
