"""Which version a catalogue uses that follows a label, over two real model servers that may disagree."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from service.model_server.registry import ModelRegistry
from service.model_server.replicas import Replicas
from service.model_server.watcher import WatchTiming
from service.telemetry.logs import configure
from service.telemetry.metrics import Metrics
from tests.e2e.configured import ConfiguredModelServer


class Labelled(ConfiguredModelServer):
    """A model server over a model with versions 1 and 2, both loaded."""

    def says(self, labels: Mapping[str, int]) -> None:
        """Write its configuration, whole at once."""
        told = " ".join(f'version_labels {{ key: "{label}" value: {version} }}' for label, version in labels.items())
        config = self.models.parent / "served.config"
        draft = config.with_suffix(".draft")
        draft.write_text(
            f'model_config_list {{ config {{ name: "lite0" base_path: "{self.models}/lite0" '
            f'model_platform: "tensorflow" model_version_policy {{ all {{}} }} {told} }} }}'
        )
        draft.rename(config)


@pytest.fixture(scope="module")
def servers(lite0_models: Path) -> Iterator[list[Labelled]]:
    """Two of them, each with a configuration of its own."""
    with TemporaryDirectory(prefix="microtome-") as path:
        made = []
        for name in ("a", "b"):
            models = Path(path) / name / "models"
            for version in ("1", "2"):
                shutil.copytree(lite0_models / "lite0" / "1", models / "lite0" / version, copy_function=os.link)
            made.append(Labelled(models.parent, models))
        for server in made:
            server.says({"stable": 1})
            server.launch()
        for server in made:
            server.until_serving()
        yield made
        for server in made:
            server.destroy()


def following(rpc: Replicas) -> ModelRegistry:
    """A catalogue that follows the label."""
    log = configure("json", "error")
    return ModelRegistry(rpc, ["lite0"], label="stable", timing=WatchTiming(), metrics=Metrics(), log=log)


@asynccontextmanager
async def kept_up(catalogue: ModelRegistry) -> AsyncIterator[None]:
    """Keep it up to date from when it has found a version to the end of the block."""
    keeping = asyncio.create_task(catalogue.run())
    async with asyncio.timeout(30):
        while catalogue.cards()["lite0"] is None:  # noqa: ASYNC110, polled like a probe
            await asyncio.sleep(0.01)
    yield
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping


@pytest.fixture
async def rpc(servers: list[Labelled]) -> AsyncIterator[Replicas]:
    """Both servers, as one."""
    made = Replicas([server.address for server in servers])
    yield made
    await made.close()


@pytest.fixture
async def catalogue(rpc: Replicas) -> AsyncIterator[ModelRegistry]:
    """A catalogue that follows the label; at first both servers have loaded both versions and say that it is 1."""
    async with asyncio.timeout(30):
        while await rpc.versions("lite0", timeout=2.0) != dict.fromkeys((1, 2), "available"):  # noqa: ASYNC110, as above
            await asyncio.sleep(0.02)
    made = following(rpc)
    async with kept_up(made):
        yield made


async def told(rpc: Replicas, servers: list[Labelled], *labels: Mapping[str, int]) -> None:
    """Write each server's labels and wait until it goes by them."""
    for server, wanted in zip(servers, labels, strict=True):
        server.says(wanted)
        alone = Replicas([server.address])
        async with asyncio.timeout(30):
            while await alone.labelled("lite0", "stable", timeout=2.0) != wanted.get("stable"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await alone.close()


async def looked(catalogue: ModelRegistry) -> int:
    """Let the catalogue look again, and return the version that it uses then."""
    return (await catalogue.renewed(catalogue.card("lite0"))).version


async def test_the_label_decides_and_not_the_number(
    rpc: Replicas, servers: list[Labelled], catalogue: ModelRegistry
) -> None:
    """Version 1 although there is a 2; and 2 when the label has moved on every server, not before."""
    assert await looked(catalogue) == 1
    await told(rpc, servers, {"stable": 2}, {"stable": 1})
    assert await looked(catalogue) == 1
    await told(rpc, servers, {"stable": 2}, {"stable": 2})
    assert await looked(catalogue) == 2
    await told(rpc, servers, {"stable": 2}, {"stable": 1})
    assert await looked(catalogue) == 2
    await told(rpc, servers, {"stable": 1}, {"stable": 1})
    assert await looked(catalogue) == 1


async def test_a_label_that_stands_for_nothing_changes_nothing(
    rpc: Replicas, servers: list[Labelled], catalogue: ModelRegistry
) -> None:
    """The version in use stays in use; later callers take the newest."""
    assert catalogue.card("lite0").version == 1
    await told(rpc, servers, {}, {})
    assert await looked(catalogue) == 1
    late = following(rpc)
    async with kept_up(late):
        pass
    assert late.card("lite0").version == 2
    await told(rpc, servers, {"stable": 1}, {"stable": 1})


async def test_a_server_that_is_down_is_not_waited_for(servers: list[Labelled]) -> None:
    """What the living ones say of the label goes."""
    rpc = Replicas([servers[0].address, f"unix:{servers[0].models}/absent"])
    assert await rpc.labelled("lite0", "stable", timeout=2.0) == 1
    await rpc.close()
