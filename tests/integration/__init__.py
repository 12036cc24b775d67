"""A few parts together, with real servers."""
