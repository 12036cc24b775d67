"""Tests of what measures: bench/."""
