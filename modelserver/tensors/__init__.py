"""Tensors between the wire and numpy, and the signatures that requests must fit."""
