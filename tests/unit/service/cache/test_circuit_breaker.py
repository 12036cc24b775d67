"""After a failure no caller asks for a window, and then one does."""

from service.cache.circuit_breaker import Breaker


class Clock:
    """A clock that moves when told."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_breaker_opens_probes_and_closes() -> None:
    """One failure opens it; after the window one caller may probe; its success lets all in."""
    clock = Clock()
    breaker = Breaker(5.0, clock)
    assert breaker.allows()
    breaker.failed()
    assert [True, False, False] == [breaker.is_open, breaker.allows(), breaker.allows()]
    clock.now = 5.0
    assert [True, False] == [breaker.allows(), breaker.allows()]
    breaker.failed()
    clock.now = 9.9
    assert not breaker.allows()
    clock.now = 10.0
    assert breaker.allows()
    breaker.succeeded()
    assert [False, True, True] == [breaker.is_open, breaker.allows(), breaker.allows()]
