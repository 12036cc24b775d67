"""Which versions are wanted, and the order of the steps that get there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.models.version_policy import Action, Everything, Latest, Specific, State, VersionPolicy, next_step

READY, LOADING, UNLOADING, END = State.AVAILABLE, State.LOADING, State.UNLOADING, State.END


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (Latest(), {30}),
        (Latest(2), {4, 30}),
        (Latest(0), {30}),
        (Latest(9), {1, 4, 30}),
        (Everything(), {1, 4, 30}),
        (Specific(frozenset({1, 5})), {1}),
        (Specific(frozenset()), set()),
    ],
)
def test_policies(policy: VersionPolicy, wanted: set[int]) -> None:
    """Of versions 1, 4 and 30."""
    assert wanted == policy.aspire({30, 1, 4})
    assert frozenset() == policy.aspire({})


@pytest.mark.parametrize(
    ("aspired", "states", "step"),
    [
        ({1}, {}, (Action.LOAD, 1)),
        ({1, 2, 3}, {}, (Action.LOAD, 3)),
        ({2}, {1: READY}, (Action.LOAD, 2)),
        ({2}, {1: READY, 2: LOADING}, None),
        ({2}, {1: READY, 2: READY}, (Action.UNLOAD, 1)),
        ({2}, {1: READY, 2: END}, None),
        ({3}, {1: READY, 2: READY}, (Action.UNLOAD, 1)),
        (set(), {1: READY, 2: READY}, (Action.UNLOAD, 1)),
        (set(), {1: UNLOADING, 2: LOADING}, None),
    ],
    ids=["first", "highest first", "new beside old", "wait for new", "old goes", "broken new keeps old",
         "one old is enough", "nothing wanted", "under way"],
)  # fmt: skip
def test_next_step(aspired: set[int], states: dict[int, State], step: tuple[Action, int] | None) -> None:
    """Never a moment without a version that answers."""
    assert step == next_step(aspired, states)


@given(st.sets(st.integers(1, 6)), st.sets(st.integers(1, 6), min_size=1), st.sets(st.integers(1, 6)))
def test_a_model_is_never_without_a_version_on_its_way(aspired: set[int], ready: set[int], broken: set[int]) -> None:
    """Whatever is wanted and whichever of it turns out broken: as long as anything is wanted, something answers."""
    states = dict.fromkeys(ready, READY)
    for _ in range(50):
        step = next_step(aspired, states)
        if step is None:
            break
        action, version = step
        if action is Action.UNLOAD:
            del states[version]
        else:
            states[version] = END if version in broken else READY
        assert not aspired or READY in states.values()
    assert next_step(aspired, states) is None
    if aspired - broken - ready:
        assert {version for version, state in states.items() if state is READY} <= aspired
