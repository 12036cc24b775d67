"""When to retry: full jitter, Retry-After, never past the deadline.

Source: Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015.

With full jitter the pause is uniform between zero and a limit that doubles; of the ways to spread callers that failed
together it makes the fewest calls. Nothing here sleeps or sends, so both clients share it.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from microtome.client.errors import DeadlineExceeded, MicrotomeError, TemporarilyUnable


@dataclass(frozen=True, slots=True)
class Retry:
    """An attempt that failed and will be repeated.

    Attributes:
        error: the attempt's error.
        attempt: its number, from 1.
        pause: seconds until the next.
    """

    error: TemporarilyUnable
    attempt: int
    pause: float


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long and how often to try.

    Attributes:
        deadline: seconds for a whole call with all its attempts; None for as long as it takes.
        attempt_timeout: seconds for one attempt; also sent to the server.
        attempts: how often one request is tried at most; None for as often as the deadline allows.
        first_pause: seconds; the first pause is at most this long, each further one at most twice as long as the last.
        longest_pause: seconds; the limit does not grow beyond this.
        on_retry: called before each pause.
        jitter: a number from [0, 1), the pause as a part of its limit.
        clock: monotonic seconds.
    """

    deadline: float | None = 60.0
    attempt_timeout: float = 30.0
    attempts: int | None = 6
    first_pause: float = 0.1
    longest_pause: float = 5.0
    on_retry: Callable[[Retry], None] | None = None
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
            DeadlineExceeded: no time is left.
        """
        left = self._end - self._policy.clock()
        if left <= 0:
            raise DeadlineExceeded(f"No answer within {self._policy.deadline:g} s, the deadline of this call.")
        return min(left, self._policy.attempt_timeout)

    def pause(self, error: MicrotomeError) -> float:
        """Return the seconds to wait before trying again.

        Raises:
            MicrotomeError: `error` itself, when it is permanent or no time or attempt is left.
        """
        policy = self._policy
        self._made += 1
        if not isinstance(error, TemporarilyUnable) or (policy.attempts is not None and self._made >= policy.attempts):
            raise error
        # Without the cap on the exponent, unlimited attempts would overflow a float.
        limit = min(policy.longest_pause, policy.first_pause * 2.0 ** min(self._made - 1, 30))
        # Retry-After is a lower bound, and jitter is added to it: else all refused callers would return together.
        pause = error.retry_after + limit * policy.jitter()
        if policy.clock() + pause >= self._end:
            raise error
        if policy.on_retry:
            policy.on_retry(Retry(error, self._made, pause))
        return pause
