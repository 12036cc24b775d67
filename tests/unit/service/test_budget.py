"""Work in flight is bounded."""

import pytest

from service.core.budget import Budget
from service.errors import Overloaded


def test_what_does_not_fit_is_refused_and_what_is_done_makes_room() -> None:
    """Up to the limit is let in, beyond it is not, and leaving gives the room back, also after an error."""
    seen: list[int] = []
    budget = Budget(3, "images", seen.append)
    with budget.hold(2), budget.hold(1), pytest.raises(Overloaded, match="3 of 3 images"), budget.hold(1):
        pytest.fail("was let in beyond the limit")
    with pytest.raises(ZeroDivisionError), budget.hold(3):
        raise ZeroDivisionError
    with budget.hold(3):
        assert seen == [2, 3, 2, 0, 3, 0, 3]


def test_a_single_large_request_is_let_in_alone() -> None:
    """What no retry could make fit is let through when nothing else runs, and keeps others out meanwhile."""
    budget = Budget(3, "images")
    with budget.hold(5), pytest.raises(Overloaded), budget.hold(1):
        pytest.fail("was let in beside a request that fills everything")
