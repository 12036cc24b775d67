"""Whether it pays, in an overload, to look an image up before it is refused."""

_MEASURED = 64
"""Looks that the share of hits is averaged over, the latest counting most."""

_WORTH = 0.01
"""Share of hits from which on every image is looked up: a look costs about a hundredth of computing a vector."""

_SAMPLE = 16
"""Of so many images one is looked up all the same: what share of them is known can only be seen by looking."""


class Prospects:
    """Follows how many looks into the cache found their vectors.

    Where images are known, an overload is no reason to refuse them: their vectors cost next to nothing. Where none is,
    looking is most of what a refusal costs, and is taken from those who are answered. One hit among the sampled is
    enough to look all up again.
    """

    def __init__(self) -> None:
        """Begin with every image worth a look."""
        self._share = 1.0
        self._unseen = 0

    def looked(self, *, found: bool) -> None:
        """Count a look."""
        self._share += (found - self._share) / _MEASURED

    def worth_a_look(self) -> bool:
        """Whether the next image should be looked up before it is refused."""
        if self._share >= _WORTH:
            return True
        self._unseen = (self._unseen + 1) % _SAMPLE
        return not self._unseen
