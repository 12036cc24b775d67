"""Who embeds: what a run needs of a gateway or of a Ray cluster."""

from collections.abc import Iterator
from typing import Protocol, Self

from microtome.client.options import EmbedOptions
from microtome.client.outcomes import Outcome
from microtome.embed.images import Located


class Engine(Protocol):
    """Embeds images, in order, a window at a time."""

    def identify(self, model: str | None) -> tuple[str, int]:
        """Return the name of a model, of the first for None, and its version in use.

        Raises:
            EmbedError: there is no such model.
        """
        ...

    def outcomes(self, images: Iterator[Located], wanted: EmbedOptions) -> Iterator[Outcome]:
        """Embed images; each outcome's `image` is the one it came of, or has its key.

        Raises:
            MicrotomeError: what would be wrong with every image.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
