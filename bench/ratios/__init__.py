"""The ratios that decide, by question; each takes a running stack and returns comparisons."""
