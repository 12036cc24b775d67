"""Engines load SavedModels and execute them: TensorFlow, or OpenVINO on request."""
