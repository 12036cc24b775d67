"""What a request turned out to be, noted by whoever knows it and logged in one line at its end."""

from starlette.types import Scope

_FACTS = "microtome.facts"


def begin(scope: Scope) -> dict[str, object]:
    """Begin to note, and return what will have been noted."""
    facts: dict[str, object] = {}
    scope[_FACTS] = facts
    return facts


def note(scope: Scope, **facts: object) -> None:
    """Note facts of a request: names, counts, durations; never a secret, never a body."""
    scope[_FACTS].update(facts)
