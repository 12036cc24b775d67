"""Real, small implementations of the model server's ports, for tests that need no TensorFlow."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelserver.errors import NotFound
from modelserver.models.loading import Loaded
from modelserver.tensors.codec import Array
from modelserver.tensors.signatures import Signatures


class DoublingModel:
    """Answers every fetch with twice the first input, and remembers the batches it was given.

    Args:
        open_at_once: Whether runs end by themselves; otherwise they wait for ``gate``.
    """

    def __init__(self, *, open_at_once: bool = True) -> None:
        self.signatures: Signatures = {}
        self.batches: list[int] = []
        self.closed = False
        self.began = threading.Semaphore(0)
        self.gate = threading.Event()
        if open_at_once:
            self.gate.set()

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """Double the first input."""
        assert not self.closed, "run after close"
        (first, *_) = feeds.values()
        self.batches.append(len(np.atleast_1d(first)))
        self.began.release()
        assert self.gate.wait(20)
        if np.any(first == 13):
            raise RuntimeError("thirteen")
        return [first * 2 for _ in fetches]

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


class FolderLoader:
    """Loads a version directory unless it holds a file ``broken``."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def load(self, version_dir: Path) -> Loaded:
        """Load, or refuse."""
        self.loaded.append(version_dir.name)
        if (version_dir / "broken").exists():
            raise NotFound("broken")
        return Loaded(DoublingModel(), None)


class FolderEngine:
    """Reads a version directory unless it holds a file ``broken``."""

    name = "folder"

    def threads(self, path: Path) -> int:
        """One, whatever it is."""
        return 1

    def load(self, path: Path) -> DoublingModel:
        """Read, or refuse."""
        if (path / "broken").exists():
            raise NotFound("broken")
        return DoublingModel()


async def eventually(true: Any, seconds: float = 10.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 (there is no event for what others write down)
            await asyncio.sleep(0.005)
