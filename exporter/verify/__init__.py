"""Prove that a written version computes what Keras computes."""
