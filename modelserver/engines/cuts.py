"""Keeps what an engine has compiled for sets of tensors."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

Tensors = tuple[str, ...]
Cut = TypeVar("Cut")


class Cuts(Generic[Cut]):
    """The most recently used cuts of a model, each compiled on first use. May be used from any thread.

    Args:
        compiler: Compiles a cut from the names of its inputs and outputs.
        kept: The number of cuts to keep: each has its own copy of the weights that it needs.
    """

    def __init__(self, compiler: Callable[[Tensors, Tensors], Cut], kept: int) -> None:
        self._compile = compiler
        self._kept = kept
        self._cuts: OrderedDict[tuple[Tensors, Tensors], Cut] = OrderedDict()
        self._lock = Lock()
        self._compiling = Lock()

    def get(self, feeds: Tensors, fetches: Tensors) -> Cut:
        """Return a cut; while it is compiled, others run."""
        key = feeds, fetches
        if (cut := self._find(key)) is not None:
            return cut
        with self._compiling:
            if (cut := self._find(key)) is None:
                cut = self._compile(feeds, fetches)
                with self._lock:
                    self._cuts[key] = cut
                    if len(self._cuts) > self._kept:
                        self._cuts.popitem(last=False)
        return cut

    def clear(self) -> None:
        """Drop all."""
        self._cuts.clear()

    def _find(self, key: tuple[Tensors, Tensors]) -> Cut | None:
        with self._lock:
            if key in self._cuts:
                self._cuts.move_to_end(key)
            return self._cuts.get(key)
