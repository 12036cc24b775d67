"""A server with TensorFlow Serving's API: the embedded default on a CPU, and its stand-in in tests."""

import os

# gRPC's own lines repeat what is said in words; it reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# TensorFlow reads both when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Every session computes with threads of its own: warm-up runs, in large batches, would occupy the shared ones.
os.environ.setdefault("TF_OVERRIDE_GLOBAL_THREADPOOL", "1")
