"""The gRPC and REST APIs, and the handlers that both call."""
