"""Find the layer, pooling and preprocessing that suit a user's own photos: `microtome sweep`."""
