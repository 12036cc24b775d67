"""Generated from protos/microtome/inference/v2: make protos."""
