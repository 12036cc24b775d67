"""Architectures that keras.applications does not have, as functional Keras models with named layers."""
