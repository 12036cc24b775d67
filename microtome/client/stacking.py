"""Many outcomes as one array."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from microtome.client.outcomes import Outcome, same_version

if TYPE_CHECKING:
    from numpy.typing import NDArray


def stacked(outcomes: Sequence[Outcome], *, one: bool, by_name: bool) -> "NDArray[Any] | dict[str, NDArray[Any]]":
    """Make arrays of outcomes.

    Args:
        outcomes: of one call.
        one: whether the caller passed one image, and not a list.
        by_name: whether the caller asked for a list of outputs.

    Returns:
        [D] for one image, [N, D] for a list; a dict of these `by_name`.

    Raises:
        MicrotomeError: an image failed, or versions are mixed.
        ValueError: no outcomes, or several outputs where one was expected.
    """
    import numpy as np  # noqa: PLC0415, importing the client shall cost nothing

    if not outcomes:
        raise ValueError("Expected at least one image, received an empty list: how long its vectors are is not known.")
    for place, outcome in enumerate(outcomes):
        if outcome.error is not None:
            if not one:
                outcome.error.add_note(f"It was image {place} of {len(outcomes)}.")
            raise outcome.error
    same_version(outcomes)
    if not by_name:
        return outcomes[0].vector if one else np.stack([outcome.vector for outcome in outcomes])
    names = outcomes[0].vectors
    if one:
        return dict(names)
    return {name: np.stack([outcome.vectors[name] for outcome in outcomes]) for name in names}
