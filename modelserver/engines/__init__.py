"""Engines load SavedModels and execute them: OpenVINO, and TensorFlow for what that does not compute."""
