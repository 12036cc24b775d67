"""The gateway: takes images in over HTTP, answers with embedding vectors. Never imports TensorFlow."""
