"""What a layer sees: the photos that excite its channels, DeconvNet reconstructions, heat maps."""
