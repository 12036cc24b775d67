"""Single flight across gateways: what another one is computing is waited for, at most as long as its claim may last.

Nobody waits while holding back work of its own: what is claimed is computed first, so that two gateways which each want
what the other computes do not wait for each other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic

import numpy as np

from service.core.ports import Claims, Taken
from service.core.single_flight import Made
from service.core.timings import Stages

_FIRST_LOOK, _LONGEST_PAUSE = 0.005, 0.1
"""Seconds between two looks at what another gateway computes; each pause is half as long again as the last."""

Compute = Callable[[Sequence[str]], Awaitable[Made]]
"""Makes one image's vectors of the outputs named."""


class Unclaimed:
    """Chosen when gateways do not share: nobody else computes anything."""

    lease = 0.0

    async def take(self, keys: Sequence[str]) -> Taken:  # noqa: ARG002, the port's
        """Leave everything to the caller."""
        return Taken()

    def give_back(self, keys: Sequence[str]) -> None:
        """Nothing was claimed."""


class Sharing:
    """Computes what no other gateway does, and waits for the rest."""

    def __init__(self, claims: Claims, clock: Callable[[], float] = monotonic) -> None:
        self._claims = claims
        self._clock = clock

    async def made(
        self, keys: Mapping[str, str], dims: Mapping[str, int], compute: Compute, stages: Stages
    ) -> tuple[Made, frozenset[str]]:
        """Return one image's vectors, and the names of those that another gateway made.

        Args:
            keys: cache keys by output's name.
            dims: numbers in each output's vector.
            compute: makes the vectors of some of these outputs, and stores them.
            stages: is told how long other gateways were waited for ("elsewhere").
        """
        made: Made = {}
        theirs: set[str] = set()
        waited, pause = 0.0, _FIRST_LOOK
        give_up = self._clock() + self._claims.lease
        while lacking := {name: key for name, key in keys.items() if name not in made}:
            # A second gateway that dies does not cost a second lease.
            taken = await self._claims.take(list(lacking.values())) if self._clock() <= give_up else Taken()
            found = _vectors(lacking, dims, taken.found)
            made |= found
            theirs |= set(found)
            mine = [name for name, key in lacking.items() if name not in made and key not in taken.elsewhere]
            if mine:
                made |= await self._computed(mine, lacking, compute)
            elif len(made) < len(keys):
                start = self._clock()
                await asyncio.sleep(pause)
                waited += self._clock() - start
                pause = min(1.5 * pause, _LONGEST_PAUSE)
        if waited:
            stages("elsewhere", waited)
        return made, frozenset(theirs)

    async def _computed(self, names: Sequence[str], keys: Mapping[str, str], compute: Compute) -> Made:
        try:
            return await compute(names)
        except BaseException:
            self._claims.give_back([keys[name] for name in names])
            raise


def _vectors(keys: Mapping[str, str], dims: Mapping[str, int], found: Mapping[str, bytes]) -> Made:
    # A value of the wrong length is no answer, whoever wrote it.
    return {
        name: np.frombuffer(value, "<f4")
        for name, key in keys.items()
        if (value := found.get(key)) is not None and len(value) == 4 * dims[name]
    }
