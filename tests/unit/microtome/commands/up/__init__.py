"""`microtome up`: its supervisor, over small real processes in place of the large ones."""
