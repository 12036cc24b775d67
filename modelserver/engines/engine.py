"""The port of an engine, which loads and executes SavedModels, and engines that are imported when they are needed."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from modelserver.tensors.codec import Array
from modelserver.tensors.signatures import Signatures


class LoadedModel(Protocol):
    """A SavedModel in memory. All methods may be called from any thread."""

    @property
    def signatures(self) -> Signatures:
        """The signatures, by key."""

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """Compute the fetched tensors and nothing else; releases the interpreter lock meanwhile.

        Args:
            feeds: Arrays by tensor name.
            fetches: Tensor names.

        Returns:
            One array per fetch, in their order.

        Raises:
            ServingError: With the code and text of the runtime.
        """

    def close(self) -> None:
        """Free the memory. No run may be active, and none may follow."""


class Engine(Protocol):
    """Loads SavedModels."""

    @property
    def name(self) -> str:
        """What the flag ``--engine`` calls it."""

    def threads(self, path: Path) -> int:
        """Return the number of threads that compute one batch of the SavedModel in ``path``."""

    def load(self, path: Path) -> LoadedModel:
        """Read the SavedModel in ``path``; blocks, for seconds.

        Raises:
            ServingError: There is none, or it cannot be read.
        """


class OnDemand:
    """An engine that is opened, and imported, when a model needs it first.

    Args:
        name: What the flag ``--engine`` calls it.
        opener: Opens it; raises Absent where it is not installed.
    """

    def __init__(self, name: str, opener: Callable[[], Engine]) -> None:
        self.name = name
        self._open = opener

    @cached_property
    def _engine(self) -> Engine:
        return self._open()

    def threads(self, path: Path) -> int:
        """See ``Engine.threads``."""
        return self._engine.threads(path)

    def load(self, path: Path) -> LoadedModel:
        """See ``Engine.load``."""
        return self._engine.load(path)
