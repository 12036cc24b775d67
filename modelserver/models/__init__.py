"""Models and their versions: configuration, discovery on disk, loading, life cycle, lookup."""
