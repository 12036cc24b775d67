"""What a request turned out to be, noted by whoever knows it and logged in one line at its end."""

from collections.abc import Mapping

from starlette.types import Scope

_FACTS = "microtome.facts"


def begin(scope: Scope) -> dict[str, object]:
    """Begin to note, and return what will have been noted."""
    facts: dict[str, object] = {}
    scope[_FACTS] = facts
    return facts


def note(scope: Scope, **facts: object) -> None:
    """Note facts of a request: names, counts, durations; never a secret, never a body.

    `stages` is a mapping of seconds by name, which may still be filled afterwards.
    """
    scope[_FACTS].update(facts)


def as_logged(facts: Mapping[str, object]) -> dict[str, object]:
    """Return the facts for the log, each stage as a fact of its own: `decode_ms`."""
    told = dict(facts)
    stages = told.pop("stages", {})
    if isinstance(stages, Mapping):
        told |= {f"{name}_ms": round(1000 * seconds, 2) for name, seconds in stages.items()}
    return told
