"""How long and how often things are measured."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """Rounds, and seconds of one contestant in one round."""

    rounds: int
    seconds: float


QUICK = Effort(rounds=3, seconds=1.5)
FULL = Effort(rounds=5, seconds=3.5)
