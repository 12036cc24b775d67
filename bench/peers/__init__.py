"""P5: what people would use instead, each as its own documentation sets it up, on the same SavedModel and images."""
