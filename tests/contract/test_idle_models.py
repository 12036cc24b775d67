"""What a gateway asks of a model that nobody else asks, over real model servers and a clock that the test moves."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from microtome.tfserving.v1.predict_pb2 import PredictResponse
from service.model_server.acceptance import Replica
from service.model_server.client import ModelServerClient
from service.model_server.predict_encoding import WireTensor
from service.model_server.registry import ModelRegistry
from service.model_server.replicas import Replicas
from service.model_server.watcher import WatchTiming
from service.telemetry.logs import configure
from service.telemetry.metrics import Metrics
from tests.e2e.processes import ModelServer
from tests.e2e.test_versions import SQUASHED
from tests.exported_models import export

TIMING = WatchTiming()


class Watched(Replicas):
    """Remembers which signatures were run.

    Attributes:
        successor: who runs them from now on, in silence, as behind an address where another server has been started.
    """

    def __init__(self, address: str) -> None:
        super().__init__([address])
        self.ran: list[str] = []
        self.successor: Replicas | None = None

    async def predict(
        self,
        model: str,
        version: int,
        signature: str,
        inputs: Mapping[str, WireTensor],
        outputs: Sequence[str],
        *,
        timeout: float,  # noqa: ASYNC109, as above it
        among: Callable[[Replica], bool] = lambda _: True,
    ) -> PredictResponse:
        """Run it, and remember it."""
        self.ran.append(signature)
        run = self.successor.predict if self.successor else super().predict
        return await run(model, version, signature, inputs, outputs, timeout=timeout, among=among)

    def living(self) -> dict[Replica, ModelServerClient]:
        """Return those that run them."""
        return self.successor.living() if self.successor else super().living()


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now


@pytest.fixture(scope="module")
def server(lite0_models: Path) -> Iterator[ModelServer]:
    """A real model server with the default recipe."""
    with TemporaryDirectory(prefix="microtome-") as path:
        process = ModelServer(Path(path), lite0_models)
        process.start()
        yield process
        process.destroy()


@asynccontextmanager
async def looked_after(servers: Replicas, clock: Clock) -> AsyncIterator[ModelRegistry]:
    """A catalogue that has found its model."""
    log = configure("json", "error")
    catalogue = ModelRegistry(servers, ["lite0"], timing=TIMING, metrics=Metrics(), log=log, clock=clock)
    keeping = asyncio.create_task(catalogue.run())
    async with asyncio.timeout(30):
        while catalogue.readiness()["lite0"] is not None:  # noqa: ASYNC110, polled like a probe
            await asyncio.sleep(0.01)
    # From here on the test says when it looks.
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
    yield catalogue
    await servers.close()


async def test_an_idle_model_is_asked_for_its_manifest_and_rarely_for_an_image(server: ModelServer) -> None:
    """An image takes the cores from who asks for other models; a manifest proves nearly as much, and costs nothing."""
    clock, servers = Clock(), Watched(server.address)
    async with looked_after(servers, clock) as catalogue:
        card = catalogue.card("lite0")

        async def ran_after(seconds: float) -> list[str]:
            clock.now += seconds
            servers.ran.clear()
            await catalogue.renewed(card)
            return servers.ran

        assert [] == await ran_after(TIMING.ask_after / 2)
        assert ["manifest"] == await ran_after(TIMING.ask_after)
        assert [] == await ran_after(TIMING.ask_after / 2)
        assert ["manifest", "serving_default"] == await ran_after(TIMING.try_after)
        assert [] == await ran_after(TIMING.ask_after / 2)
        assert catalogue.readiness()["lite0"] is None


async def test_a_model_is_ready_while_it_answers(server: ModelServer) -> None:
    """Without an answer it is not ready soon, though its last inference was not long ago."""
    clock, servers = Clock(), Watched(server.address)
    async with looked_after(servers, clock) as catalogue:
        clock.now += TIMING.answers_for + 1
        assert "has not answered" in str(catalogue.readiness()["lite0"])
        await catalogue.renewed(catalogue.card("lite0"))
        assert catalogue.readiness()["lite0"] is None


async def test_another_model_under_the_same_number_is_noticed(server: ModelServer, tmp_path: Path) -> None:
    """Also when its server was there so soon that no call has failed: its manifest is another one."""
    recipe = tmp_path / "squashed.yaml"
    recipe.write_text(SQUASHED)
    exported = export(recipe, tmp_path / "models")
    assert exported.returncode == 0, exported.stderr
    clock, servers = Clock(), Watched(server.address)
    with TemporaryDirectory(prefix="microtome-") as path:
        other = ModelServer(Path(path), tmp_path / "models")
        try:
            other.start()
            async with looked_after(servers, clock) as catalogue:
                before = catalogue.card("lite0")
                servers.successor = Replicas([other.address])
                clock.now += TIMING.ask_after + 1
                after = await catalogue.renewed(before)
                await servers.successor.close()
        finally:
            other.destroy()
    assert (before.version, after.version) == (1, 1)
    assert before.manifest.fingerprint != after.manifest.fingerprint
