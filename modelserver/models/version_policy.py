"""The versions to serve, and the next step towards them. Pure functions: no disk, no clock, no model."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, auto


class State(IntEnum):
    """The state of a version; numbers of ``GetModelStatusResponse``."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, slots=True)
class Latest:
    """Serve the highest numbers."""

    count: int = 1

    def aspire(self, found: Collection[int]) -> frozenset[int]:
        """Choose among the versions on disk."""
        return frozenset(sorted(found)[-max(self.count, 1) :])


@dataclass(frozen=True, slots=True)
class Everything:
    """Serve every version."""

    def aspire(self, found: Collection[int]) -> frozenset[int]:
        """Choose among the versions on disk."""
        return frozenset(found)


@dataclass(frozen=True, slots=True)
class Specific:
    """Serve these numbers, if they are there."""

    versions: frozenset[int]

    def aspire(self, found: Collection[int]) -> frozenset[int]:
        """Choose among the versions on disk."""
        return frozenset(found) & self.versions


VersionPolicy = Latest | Everything | Specific


class Action(Enum):
    """A step of a version."""

    LOAD = auto()
    UNLOAD = auto()


def next_step(aspired: Collection[int], states: Mapping[int, State]) -> tuple[Action, int] | None:
    """Choose the next step so that a model never stops being served on the way to what is aspired.

    An unwanted version goes only when nothing is wanted, when a wanted one is ready to take over, or when another
    unwanted one is still available. Unloading comes before loading, the highest number is loaded first.

    Args:
        aspired: Versions that should be served.
        states: All versions that are not over; a version that is absent has not begun.

    Returns:
        The step, or None when there is nothing to do now.
    """
    ready = {version for version, state in states.items() if state is State.AVAILABLE}
    unwanted = sorted(ready - set(aspired))
    if unwanted and (not aspired or ready & set(aspired) or len(unwanted) > 1):
        return Action.UNLOAD, unwanted[0]
    new = sorted(version for version in aspired if version not in states)
    return (Action.LOAD, new[-1]) if new else None
