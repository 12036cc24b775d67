"""A Keras network as a graph of calls: cut points, cost, receptive fields, pictures."""
