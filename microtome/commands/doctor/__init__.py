"""`microtome doctor`: is all there that `microtome up` or a gateway needs, and does it work?"""
