"""A version on disk: the frozen graph as a SavedModel, its manifest and fingerprint, and how it is published."""
