"""Recipes: the file format, reading and checking a file, and the resolved recipe that the other packages work with."""
