"""Cut a network into consecutive blocks, save each, and prove that together they are the network."""
