"""What a gateway asks of a model without requests, over real model servers and a clock that the test moves."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from service.model_server.client import ModelServerClient
from service.model_server.names import Place
from service.model_server.registry import ModelRegistry
from service.model_server.replicas import Replicas
from service.model_server.watcher import WatchTiming
from service.telemetry.logs import configure
from service.telemetry.metrics import Metrics
from tests.e2e.processes import ModelServer

TIMING = WatchTiming()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The signatures that were run, in order."""
    signatures: list[str] = []
    predict = ModelServerClient.predict

    async def remembered(
        self: ModelServerClient, model: str, version: int, signature: str, *rest: Any, **more: Any
    ) -> Any:
        signatures.append(signature)
        return await predict(self, model, version, signature, *rest, **more)

    monkeypatch.setattr(ModelServerClient, "predict", remembered)
    return signatures


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


async def test_an_idle_model_is_asked_for_its_manifest_and_rarely_for_an_image(
    server: ModelServer, ran: list[str]
) -> None:
    """An image takes the cores from who asks for other models; a manifest proves nearly as much, and costs nothing."""
    clock, servers = Clock(), Replicas([server.address])
    async with looked_after(servers, clock) as catalogue:
        card = catalogue.card("lite0")

        async def ran_after(seconds: float) -> list[str]:
            clock.now += seconds
            ran.clear()
            await catalogue.renewed(card)
            return ran

        await ran_after(TIMING.ask_after + 1)
        assert [] == await ran_after(TIMING.ask_after / 2)
        assert ["manifest"] == await ran_after(TIMING.ask_after)
        assert [] == await ran_after(TIMING.ask_after / 2)
        assert ["manifest", "serving_default"] == await ran_after(TIMING.try_after)
        assert [] == await ran_after(TIMING.ask_after / 2)
        assert catalogue.readiness()["lite0"] is None


async def test_a_model_is_ready_while_it_answers(server: ModelServer) -> None:
    """Without an answer it is not ready soon, though its last inference was not long ago."""
    clock, servers = Clock(), Replicas([server.address])
    async with looked_after(servers, clock) as catalogue:
        clock.now += TIMING.answers_for + 1
        assert "has not answered" in str(catalogue.readiness()["lite0"])
        await catalogue.renewed(catalogue.card("lite0"))
        assert catalogue.readiness()["lite0"] is None


async def test_another_model_under_the_same_number_is_noticed(
    server: ModelServer, lite0_models: Path, squashed_lite0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when no call has failed and no connection was lost, as when a version is deleted and published again."""
    shutil.copytree(lite0_models, tmp_path / "models", copy_function=os.link)
    shutil.rmtree(tmp_path / "models" / "lite0" / "1")
    shutil.copytree(squashed_lite0, tmp_path / "models" / "lite0" / "1", copy_function=os.link)
    clock, servers = Clock(), Replicas([server.address])
    with TemporaryDirectory(prefix="microtome-") as path:
        other = ModelServer(Path(path), tmp_path / "models")
        try:
            other.start()
            async with looked_after(servers, clock) as catalogue:
                before = catalogue.card("lite0")
                successor, predict = ModelServerClient(Place(other.address)), ModelServerClient.predict

                async def answered(_: ModelServerClient, *rest: Any, **more: Any) -> Any:
                    return await predict(successor, *rest, **more)

                monkeypatch.setattr(ModelServerClient, "predict", answered)
                clock.now += TIMING.ask_after + 1
                after = await catalogue.renewed(before)
                await successor.close()
        finally:
            other.destroy()
    assert (before.version, after.version) == (1, 1)
    assert before.manifest.fingerprint != after.manifest.fingerprint
