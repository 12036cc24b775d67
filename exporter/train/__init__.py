"""Train classifiers on photos: heads on frozen features, and fine-tuned backbones."""
