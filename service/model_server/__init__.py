"""The client of TensorFlow Serving's gRPC API, and the registry of the models served there.

Nothing here knows whether the other side is TensorFlow Serving or the embedded model server.
"""
