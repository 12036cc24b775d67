"""A load's outcome with the CPU time of the servers meanwhile, and the comparison of two such series."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.load.plan import Outcome
from bench.reporting.comparison import Comparison


@dataclass(frozen=True, slots=True)
class Effort:
    """Rounds, and seconds of one contestant in one round."""

    rounds: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """A load's outcome.

    Attributes:
        cpu: CPU seconds of each process that served it, by name.
        foreign: The part of the machine that other processes used, 0 to 1.
    """

    outcome: Outcome
    cpu: dict[str, float]
    foreign: float = 0.0

    @property
    def cpu_per_image(self) -> float:
        """CPU seconds of all server processes per image answered."""
        return sum(self.cpu.values()) / max(1, self.outcome.images)

    def cpu_of(self, name: str) -> float:
        """CPU seconds of one process per image answered."""
        return self.cpu[name] / max(1, self.outcome.images)

    def facts(self) -> dict[str, float]:
        """Return the numbers behind a ratio."""
        outcome = self.outcome
        refused = outcome.statuses.get("429", 0)
        return {
            "images/s": outcome.rate,
            "CPU ms per image": 1e3 * self.cpu_per_image,
            **{f"{name} CPU ms": 1e3 * self.cpu_of(name) for name in self.cpu},
            "p50 ms": 1e3 * outcome.latency.get("p50", 0.0),
            "p99 ms": 1e3 * outcome.latency.get("p99", 0.0),
            "refused/s": refused / outcome.seconds,
            "neither 200 nor 429": float(sum(outcome.statuses.values()) - outcome.answered - refused),
            "load generator, part of a core": outcome.cpu_seconds / outcome.seconds,
            "foreign": self.foreign,
        }


Rounds = Sequence[Mapping[str, Measured]]
"""What each contestant did in each round."""


def facts(rounds: Rounds, ours: str, theirs: str = "", own: str = "") -> dict[str, list[float]]:
    """Return the numbers of one or two contestants in each round.

    Names that both have end with that of the contestant, where `own` takes the place of our one's.
    """
    rows = [{name: measured.facts() for name, measured in each.items()} for each in rounds]
    found: dict[str, list[float]] = {}
    for side, other, ending in ((ours, theirs, own), (theirs, ours, theirs))[: 2 if theirs else 1]:
        for name in rows[0][side]:
            shared = ending and name in rows[0].get(other, {})
            found[f"{name}, {ending}" if shared else name] = [row[side][name] for row in rows]
    return {name: values for name, values in found.items() if any(values) or name == "foreign"}


def versus(key: str, what: str, target: float | None, rounds: Rounds, names: tuple[str, str]) -> Comparison:
    """Compare the images a second of two contestants, and their CPU seconds per image."""
    pairs = [(each[names[0]], each[names[1]]) for each in rounds]
    return Comparison(
        key,
        what,
        target,
        at_least=True,
        rounds=[ours.outcome.rate / theirs.outcome.rate for ours, theirs in pairs],
        by_cpu=[theirs.cpu_per_image / ours.cpu_per_image for ours, theirs in pairs],
        facts=facts(rounds, *names),
    )
