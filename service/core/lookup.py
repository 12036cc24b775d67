"""One request's cache lookup: which vectors it wants, and which of them are cached."""

from collections.abc import Sequence

import numpy as np

from microtome.errors import UnknownOutput
from microtome.manifest import ModelCard
from service.core.cache_keys import vector_key
from service.core.classes import default_classes
from service.core.ports import Vectors
from service.core.requests import ALL, CLASSES, Embedded, Embedding
from service.errors import unknown

Pair = tuple[str, str]
"""An image's digest and an output's name."""


class Lookup:
    """The vectors wanted of one version of a model, by cache key, and those that were cached.

    Attributes:
        names: of the outputs.
        keys: cache keys by pair, in the order of the images and for one image in that of the outputs.
        found: float32 [D] by pair.
    """

    __slots__ = ("_digests", "card", "found", "keys", "names")

    def __init__(self, card: ModelCard, outputs: Sequence[str], digests: Sequence[str]) -> None:
        """Want these outputs of images with these digests.

        Raises:
            UnknownOutput: the model has no such output.
        """
        self.card = card
        self.names = _resolve(outputs, card)
        fingerprint = card.manifest.fingerprint
        self.keys = {(digest, name): vector_key(fingerprint, name, digest) for digest in digests for name in self.names}
        self.found: dict[Pair, Vectors] = {}
        self._digests = digests

    @property
    def complete(self) -> bool:
        """Whether everything was cached."""
        return len(self.found) == len(self.keys)

    def fill(self, values: Sequence[bytes | None]) -> None:
        """Take the cache's values, in the order of the keys."""
        outputs = self.card.outputs
        # A value of the wrong length is no answer.
        self.found = {
            pair: np.frombuffer(value, "<f4")
            for pair, value in zip(self.keys, values, strict=True)
            if value is not None and len(value) == 4 * outputs[pair[1]].dim
        }

    def hits(self) -> Embedded:
        """Return the answer of a complete lookup."""
        found = self.found
        return Embedded(
            self.card,
            [
                Embedding(index, name, found[digest, name], "hit")
                for index, digest in enumerate(self._digests)
                for name in self.names
            ],
        )


def _resolve(outputs: Sequence[str], card: ModelCard) -> list[str]:
    if not outputs:
        return [card.manifest.default_output]
    known = card.outputs
    if tuple(outputs) == (CLASSES,):
        return [default_classes(card)]
    if tuple(outputs) == (ALL,) and ALL not in known:
        return list(known)
    for name in outputs:
        if name not in known:
            raise UnknownOutput(unknown(f"output of model {card.name!r}", name, known))
    return list(dict.fromkeys(outputs))
