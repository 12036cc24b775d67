"""Real processes, real ports, real photos: what a user would see."""
