"""Of several replicas: which versions can be asked, and what is said of the others."""

import pytest

from service.model_server.replicas import merged


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([{1: "available"}], {1: "available"}),
        ([{1: "end", 2: "available"}], {1: "end", 2: "available"}),
        ([{1: "available", 2: "available"}, {1: "available"}], {1: "available", 2: "available"}),
        ([{1: "available", 2: "start"}, {1: "available", 2: "available"}], {1: "available", 2: "available"}),
        ([{1: "available", 2: "available"}, {1: "end", 2: "start"}], {1: "available", 2: "available"}),
        ([{1: "available"}, {2: "available"}], {1: "available", 2: "available"}),
        ([{}, {1: "loading"}], {1: "loading"}),
    ],
)
def test_what_any_replica_has_can_be_asked(states: list[dict[int, str]], expected: dict[int, str]) -> None:
    """Its requests go to the replicas that have it."""
    assert expected == merged(states)
