"""Small reference data, each beside the script that made it."""
