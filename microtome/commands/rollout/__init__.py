"""Take a model's other version into use, and back, while requests run: `microtome rollout`."""
