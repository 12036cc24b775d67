"""Where backbones come from: Keras, definitions of our own, and what the user brings."""
