"""`microtome search`: the photos of a folder that are nearest to others, by the vectors of a gateway."""
