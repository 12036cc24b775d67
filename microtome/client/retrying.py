"""When to try again: full jitter, Retry-After, never past the deadline.

Source: Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015.

Full jitter means that the pause is uniform between nothing and a limit that doubles; of all ways to spread callers who
failed together it makes the fewest calls. Nothing here sleeps or sends, so both clients share it.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from microtome.client.errors import DeadlineExceeded, MicrotomeError, TemporarilyUnable


@dataclass(frozen=True, slots=True)
class Retry:
    """What a client tells about an attempt that failed and will be repeated.

    Attributes:
        error: what came of the attempt.
        attempt: its number, from 1.
        pause: seconds until the next.
    """

    error: TemporarilyUnable
    attempt: int
    pause: float


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long and how often.

    Attributes:
        deadline: seconds for a whole call with all its attempts; None for as long as it takes.
        attempt_timeout: seconds for one attempt, of which the server is told too.
        attempts: how often one request is tried at most; None for as often as the deadline allows.
        first_pause: seconds; the first pause is at most this long, each further one at most twice as long as the last.
        longest_pause: seconds; the limit does not grow beyond this.
        on_retry: called before each pause.
        jitter: a number from [0, 1), the pause as a part of its limit.
        clock: seconds that only grow.
    """

    deadline: float | None = 60.0
    attempt_timeout: float = 30.0
    attempts: int | None = 6
    first_pause: float = 0.1
    longest_pause: float = 5.0
    on_retry: Callable[[Retry], None] = field(default=lambda _: None)
    jitter: Callable[[], float] = random.random
    clock: Callable[[], float] = monotonic

    def begin(self) -> "Attempts":
        """Begin a call."""
        return Attempts(self)


class Attempts:
    """The attempts of one call."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._made = 0
        self._end = math.inf if policy.deadline is None else policy.clock() + policy.deadline

    def timeout(self) -> float:
        """Return the seconds that the next attempt may take.

        Raises:
            DeadlineExceeded: none are left.
        """
        left = self._end - self._policy.clock()
        if left <= 0:
            raise DeadlineExceeded(f"No answer within {self._policy.deadline:g} s, the deadline of this call.")
        return min(left, self._policy.attempt_timeout)

    def pause(self, error: MicrotomeError) -> float:
        """Return the seconds to wait before trying again.

        Raises:
            MicrotomeError: trying again is no use, or no time or attempt is left: the error itself.
        """
        policy = self._policy
        self._made += 1
        if not isinstance(error, TemporarilyUnable) or (policy.attempts is not None and self._made >= policy.attempts):
            raise error
        # 2**30 already is far more than any limit; without the cut endless attempts would overflow a float.
        limit = min(policy.longest_pause, policy.first_pause * 2.0 ** min(self._made - 1, 30))
        # The server's wish is a floor, and jitter comes on top: else all whom it refused would return at once.
        pause = error.retry_after + limit * policy.jitter()
        if policy.clock() + pause >= self._end:
            raise error
        policy.on_retry(Retry(error, self._made, pause))
        return pause
