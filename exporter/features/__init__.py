"""Vectors of a folder of photos, on disk: many outputs of one backbone in one forward pass, resumable."""
