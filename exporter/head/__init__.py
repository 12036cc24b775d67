"""From a cut layer to an embedding: slicing, scaling, pooling, projection."""
