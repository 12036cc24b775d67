"""Messages of the Open Inference Protocol under a package of our own."""
