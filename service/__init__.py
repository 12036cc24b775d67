"""The gateway: takes images in over HTTP, answers with embedding vectors. Never imports TensorFlow."""

import os

# gRPC's own lines repeat what is said in words; it reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
