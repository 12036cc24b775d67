"""The gRPC face of the gateway: protos/microtome/v1/embedding.proto over the same core as HTTP."""
