"""When the client tries again: spread out, as the server wishes, and never past the deadline."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.client.errors import DeadlineExceeded, ImageTooLarge, MicrotomeError, Overloaded
from microtome.client.retries import Attempts, Retry, RetryPolicy


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def overloaded(retry_after: float = 0.0) -> Overloaded:
    """A server that asks to come back later."""
    error = Overloaded("too much")
    error.retry_after = retry_after
    return error


def pauses(attempts: Attempts, error: MicrotomeError, clock: Clock) -> list[float]:
    """Fail until it is given up, and return what was waited."""
    found: list[float] = []
    raised: MicrotomeError | None = None
    while raised is None:
        try:
            found.append(attempts.pause(error))
            clock.now += found[-1]
        except MicrotomeError as given_up:
            raised = given_up
    assert raised is error
    return found


@given(jitter=st.floats(0, 1, exclude_max=True))
def test_pauses_are_uniform_below_a_limit_that_doubles(jitter: float) -> None:
    """Full jitter: 0.1, 0.2, 0.4 … seconds at most, up to the longest pause."""
    clock = Clock()
    policy = RetryPolicy(deadline=None, attempts=9, longest_pause=5.0, jitter=lambda: jitter, clock=clock)
    limits = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert pytest.approx([limit * jitter for limit in limits]) == pauses(policy.begin(), overloaded(), clock)


def test_retry_after_is_waited_for_and_jitter_comes_on_top() -> None:
    """Callers who were refused together do not come back together."""
    clock = Clock()
    policy = RetryPolicy(attempts=2, jitter=lambda: 0.5, clock=clock)
    assert pytest.approx([3.05]) == pauses(policy.begin(), overloaded(3.0), clock)


def test_what_will_fail_again_is_not_tried_again() -> None:
    """A rejected image is an error at once."""
    assert [] == pauses(RetryPolicy().begin(), ImageTooLarge("20 MB"), Clock())


@given(deadline=st.floats(0.1, 20), retry_after=st.floats(0, 5))
def test_no_pause_ends_after_the_deadline(deadline: float, retry_after: float) -> None:
    """The error comes while there is time to tell it, not later."""
    clock = Clock()
    policy = RetryPolicy(deadline=deadline, attempts=None, jitter=lambda: 0.9, clock=clock)
    assert deadline > sum(pauses(policy.begin(), overloaded(retry_after), clock))


def test_attempts_get_what_is_left_of_the_deadline() -> None:
    """The last attempt is shorter than the others; with nothing left there is none."""
    clock = Clock()
    attempts = RetryPolicy(deadline=40, attempt_timeout=30, clock=clock).begin()
    assert 30 == attempts.timeout()
    clock.now += 25
    assert 15 == attempts.timeout()
    clock.now += 15
    with pytest.raises(DeadlineExceeded, match="40 s, the deadline of this call"):
        attempts.timeout()


def test_every_pause_is_told() -> None:
    """Who waits for a gateway can say so."""
    told: list[Retry] = []
    clock = Clock()
    policy = RetryPolicy(attempts=3, on_retry=told.append, jitter=lambda: 0.0, clock=clock)
    error = overloaded(1.0)
    pauses(policy.begin(), error, clock)
    assert [Retry(error, 1, 1.0), Retry(error, 2, 1.0)] == told
