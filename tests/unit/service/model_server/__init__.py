"""The model server's client."""
