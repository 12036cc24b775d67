"""Benchmarks: JPEG in, vector out, as ratios of things that run in the same minute. See docs/benchmarks.md."""
