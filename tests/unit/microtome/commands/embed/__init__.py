"""`microtome embed`."""
