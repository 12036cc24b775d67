"""Of several replicas: which versions can be asked, and what is said of the others."""

import pytest

from service.model_server.replicas import merged


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([{1: "available"}], {1: "available"}),
        ([{1: "end", 2: "available"}], {1: "end", 2: "available"}),
        ([{1: "available", 2: "available"}, {1: "available"}], {1: "available", 2: "loading"}),
        ([{1: "available", 2: "available"}, {1: "available", 2: "start"}], {1: "available", 2: "start"}),
        ([{1: "available"}, {2: "available"}], {1: "available", 2: "available"}),
        ([{}, {1: "available"}], {1: "available"}),
    ],
)
def test_what_all_replicas_have_can_be_asked(states: list[dict[int, str]], expected: dict[int, str]) -> None:
    """With nothing in common any replica's versions can; a replica that lacks one is asked elsewhere then."""
    assert expected == merged(states)
