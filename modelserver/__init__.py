"""The embedded model server: TensorFlow Serving's gRPC API over SavedModels, where TensorFlow Serving cannot run."""
