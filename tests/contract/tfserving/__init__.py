"""Conformance with TensorFlow Serving: written against an address, held by our model server."""
