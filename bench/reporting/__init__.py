"""Comparisons, results as files and tables, and the parts of pages that are generated from them."""
