"""Fetching images: from real servers on this machine, which only tests are allowed to ask."""
