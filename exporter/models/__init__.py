"""Keras models of the backbones: Keras' own, ours after their papers, and the user's; and their weights."""
