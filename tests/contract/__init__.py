"""One suite for each seam: whatever implements it, fakes included, is held to the same truths."""
