"""The ratios that decide, one module per question; each takes a running stack and returns comparisons."""
