"""A gateway and a model server with options of its own, such as another engine or precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load.plan import Load
from bench.processes.stack import Measured, Stack, start, watched
from tests.e2e.processes import Gateway, ModelServer


class Tuned(ModelServer):
    """The embedded model server with further options."""

    def __init__(self, directory: Path, models: Path, *options: str) -> None:
        super().__init__(directory, models)
        self._options = options

    def words(self) -> list[str]:
        """Return the usual words and the options."""
        return [*super().words(), *self._options]


@dataclass(frozen=True, slots=True)
class Served:
    """One model behind a gateway.

    Attributes:
        stack: Whose load generator, photos and Valkey are used.
    """

    stack: Stack
    model: str
    gateway: Gateway
    model_server: ModelServer

    def cold(self, seconds: float, connections: int) -> Load:
        """Describe a load of images that are not in the cache."""
        path = f"/embed?model={self.model}"
        return self.stack.load(seconds, port=self.gateway.port, path=path, draw="cold", connections=connections)

    def put(self, load: Load) -> Measured:
        """Put a load on, and watch the processes that serve it."""
        pids = {"gateway": self.gateway.pid, "model server": self.model_server.pid, "valkey": self.stack.valkey.pid}
        return watched(self.stack.generator, load, pids)


@contextmanager
def serving(stack: Stack, model: str, *options: str) -> Iterator[Served]:
    """Start both over one of the stack's models, and end them; `options` are the model server's.

    Raises:
        AssertionError: One did not start; the end of its log is in the message.
    """
    directory = stack.directory / "-".join(["served", model, *(option.partition("=")[2] for option in options)])
    models = directory / "models"
    models.mkdir(parents=True, exist_ok=True)
    if not (models / model).exists():
        (models / model).symlink_to((stack.models / model).resolve())
    model_server = Tuned(directory, models, *options)
    gateway = Gateway(directory, model_server.address, model, redis_url=stack.valkey.url)
    try:
        start(model_server)
        start(gateway)
        yield Served(stack, model, gateway, model_server)
    finally:
        gateway.destroy()
        model_server.destroy()
