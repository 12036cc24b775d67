"""Cut a network into consecutive blocks, save them, and prove that their chain equals the network."""
