"""The parent's end of the load generator."""

from dataclasses import asdict

from bench.load.plan import Load, Outcome
from bench.processes.worker import Worker


class LoadFailed(Exception):
    """The server could not be reached or left requests unanswered."""


class LoadGenerator(Worker):
    """A process that puts loads on."""

    def __init__(self) -> None:
        super().__init__("bench.load")
        self._port = 0

    def put(self, load: Load) -> Outcome:
        """Put a load on and wait for its outcome; see `end`."""
        self.begin(load)
        return self.end()

    def begin(self, load: Load) -> None:
        """Put a load on."""
        self._port = load.port
        self.send(asdict(load))

    def end(self) -> Outcome:
        """Wait for the outcome of a load that has begun.

        Raises:
            LoadFailed: The load was not answered.
            EOFError: The generator has ended.
        """
        outcome = self.receive()
        if "error" in outcome:
            raise LoadFailed(f"Expected answers on port {self._port}, received: {outcome['error']}")
        return Outcome(**outcome)
