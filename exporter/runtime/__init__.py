"""The process: TensorFlow's start, memory, and what is printed on the terminal."""
