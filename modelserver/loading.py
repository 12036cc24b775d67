"""Brings a version from disk to readiness. Everything here blocks, and runs in the load thread."""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from modelserver.batch_limits import BatchLimits
from modelserver.batching import Batching
from modelserver.confinement import Confinement
from modelserver.engine import Engine, LoadedModel
from modelserver.errors import Internal, ServingError

log = logging.getLogger(__name__)


class WarmUp(Protocol):
    """Exercises a loaded version; raises ServingError when it cannot answer."""

    def __call__(self, model: LoadedModel, version_dir: Path, limits: BatchLimits | None) -> int:
        """Run the version's own requests; returns how many."""


class LoadObserver(Protocol):
    """Is told how loads went; from the thread that loads."""

    def loaded(self, version_dir: Path, seconds: float | None) -> None:
        """A SavedModel was read in so many seconds; None: it could not be."""

    def warmed_up(self, version_dir: Path, seconds: float) -> None:
        """Its records ran, in so many seconds."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that is ready to answer."""

    model: LoadedModel
    limits: BatchLimits | None


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads versions, and warms them up.

    Attributes:
        engine: What executes them.
        warm_up: What exercises them before they are announced.
        batching: How each is batched.
        observer: Who is told how it went; None for nobody.
        confinement: Where they may compute.
    """

    engine: Engine
    warm_up: WarmUp
    batching: Batching
    observer: LoadObserver | None = None
    confinement: Confinement = field(default_factory=Confinement)

    def load(self, version_dir: Path) -> Loaded:
        """Load one version.

        Raises:
            ServingError: It cannot be loaded, or its warm-up failed; nothing of it stays in memory.
        """
        started = time.monotonic()
        try:
            limits = self.batching.limits_for(version_dir, self.engine.threads(version_dir))
            with self.confinement.load():
                model = self._warm(version_dir, limits)
        except ServingError:
            raise
        except Exception as error:
            log.exception("Loading %s failed", version_dir)
            raise Internal(f"Loading failed: {type(error).__name__}; see the log of the model server") from error
        log.info("Loaded %s in %.2f s", version_dir, time.monotonic() - started)
        return Loaded(model, limits)

    def _warm(self, version_dir: Path, limits: BatchLimits | None) -> LoadedModel:
        model = self._read(version_dir)
        began = time.monotonic()
        try:
            count = self.warm_up(model, version_dir, limits)
        except BaseException:
            model.close()
            raise
        if count and self.observer:
            self.observer.warmed_up(version_dir, time.monotonic() - began)
        return model

    def _read(self, version_dir: Path) -> LoadedModel:
        began, seconds = time.monotonic(), None
        try:
            model = self.engine.load(version_dir)
            seconds = time.monotonic() - began
        finally:
            if self.observer:
                self.observer.loaded(version_dir, seconds)
        return model


def no_warm_up(model: LoadedModel, version_dir: Path, limits: BatchLimits | None) -> int:
    """Stand in for the warm-up when it is switched off."""
    del model, version_dir, limits
    return 0
