"""Tests of the gRPC face, with gRPC's own client over real sockets."""
