"""Which version a catalogue uses that follows a label, over two real model servers that may disagree."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from microtome.errors import BadRequest, ModelNotReady, UnknownModel
from service.model_server.registry import ModelRegistry, models_config
from service.model_server.replicas import Replicas
from service.model_server.watcher import WatchTiming
from service.telemetry.logs import configure
from service.telemetry.metrics import Metrics
from tests.e2e.configured import ConfiguredModelServer
from tests.unit.service.http.conftest import KeptLog

NOT_LOADED = 9


class Labelled(ConfiguredModelServer):
    """A model server over a model with versions 1 and 2, both loaded."""

    def says(self, labels: Mapping[str, int], *also: str) -> None:
        """Write its configuration, whole at once; `also` names the same model again, without labels."""
        told = " ".join(f'version_labels {{ key: "{label}" value: {version} }}' for label, version in labels.items())
        config = self.models.parent / "served.config"
        draft = config.with_suffix(".draft")
        rest = f'base_path: "{self.models}/lite0" model_platform: "tensorflow"'
        entries = [f'config {{ name: "lite0" {rest} model_version_policy {{ all {{}} }} {told} }}']
        entries += [f'config {{ name: "{name}" {rest} }}' for name in also]
        draft.write_text(f"model_config_list {{ {' '.join(entries)} }}")
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


def following(rpc: Replicas, timing: WatchTiming | None = None) -> ModelRegistry:
    """A catalogue that follows the label."""
    log = configure("json", "error")
    return ModelRegistry(rpc, ["lite0"], label="stable", timing=timing or WatchTiming(), metrics=Metrics(), log=log)


async def test_models_follow_the_servers_configuration(rpc: Replicas, servers: list[Labelled]) -> None:
    """A pattern takes up what models.config names once a server has it; one file may be ahead of the other server."""
    log, path = KeptLog(), servers[0].models.parent / "served.config"
    catalogue = ModelRegistry(
        rpc, ["*0"], listing=models_config(path), timing=WatchTiming(), metrics=Metrics(), log=log
    )
    keeping = asyncio.create_task(catalogue.run())

    async def serves(*names: str) -> None:
        async with asyncio.timeout(60):
            while catalogue.readiness() != dict.fromkeys(names):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    with pytest.raises(ModelNotReady, match="No model is served yet"):
        catalogue.card("")
    await serves("lite0")
    assert catalogue.card("") is catalogue.card("lite0")
    servers[0].says({"stable": 1}, "other0")
    await serves("lite0", "other0")
    with pytest.raises(BadRequest, match="no default here; there are: lite0, other0"):
        catalogue.card("")
    before = path.read_text()
    path.write_text("broken")
    async with asyncio.timeout(30):
        while log.events[-1]["event"] != "models_not_listed":  # noqa: ASYNC110, polled like a log
            await asyncio.sleep(0.01)
    path.write_text(before)
    assert set(catalogue.cards()) == {"lite0", "other0"}
    servers[0].says({"stable": 1})
    await serves("lite0")
    with pytest.raises(UnknownModel):
        catalogue.card("other0")
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping


async def test_a_server_without_a_list_is_named_with_the_setting(rpc: Replicas) -> None:
    """TensorFlow Serving cannot list its models: the log says which setting can."""
    log = KeptLog()
    catalogue = ModelRegistry(rpc, ["*"], timing=WatchTiming(), metrics=Metrics(), log=log)
    keeping = asyncio.create_task(catalogue.run())
    async with asyncio.timeout(30):
        while not log.events:  # noqa: ASYNC110, polled like a log
            await asyncio.sleep(0.01)
    assert "MICROTOME_MODELS_CONFIG" in str(log.events[0]["advice"])
    assert catalogue.cards() == {}
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping


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
    """A catalogue that follows the label, begun while the servers may still load the version that has it."""
    made = following(rpc)
    async with kept_up(made):
        yield made


async def told(rpc: Replicas, servers: list[Labelled], *labels: Mapping[str, int]) -> None:
    """Write each server's labels and wait until it goes by them."""
    for server, wanted in zip(servers, labels, strict=True):
        server.says(wanted)
        version = wanted.get("stable")
        alone = Replicas([server.address])
        async with asyncio.timeout(30):
            said: object = ""
            while said != version and not (isinstance(said, ModelNotReady) and version == NOT_LOADED):
                (said,) = await alone.labelled("lite0", "stable", timeout=2.0)
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
    """The version in use stays in use; a gateway that starts then takes the newest."""
    assert catalogue.card("lite0").version == 1
    await told(rpc, servers, {}, {})
    assert await looked(catalogue) == 1
    late = following(rpc)
    async with kept_up(late):
        assert late.card("lite0").version == 2
    await told(rpc, servers, {"stable": 1}, {"stable": 1})


async def test_a_gateway_that_starts_waits_for_the_labelled_version(rpc: Replicas, servers: list[Labelled]) -> None:
    """As a server does that still loads it; only after MICROTOME_VERSION_WAIT the newest is taken."""
    # A label that is known moves to loaded versions only.
    await told(rpc, servers, {}, {})
    await told(rpc, servers, {"stable": NOT_LOADED}, {})
    waiting = following(rpc)
    keeping = asyncio.create_task(waiting.run())
    async with asyncio.timeout(30):
        while "with the label 'stable' is not loaded" not in str(waiting.readiness()["lite0"]):  # noqa: ASYNC110, as above
            await asyncio.sleep(0.01)
    assert waiting.cards() == {"lite0": None}
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
    late = following(rpc, WatchTiming(switch_after=0.0))
    async with kept_up(late):
        assert late.card("lite0").version == 2
    await told(rpc, servers, {"stable": 1}, {"stable": 1})


@pytest.mark.parametrize("other", [{}, {"stable": NOT_LOADED}, {"stable": 2}], ids=["unknown", "not loaded", "another"])
async def test_a_gateway_that_starts_takes_the_label_that_a_server_knows(
    rpc: Replicas, servers: list[Labelled], other: Mapping[str, int]
) -> None:
    """Not the newest, although the other server has not assigned the label, or has moved it already."""
    # A label that is known moves to loaded versions only.
    await told(rpc, servers, {"stable": 1}, {})
    await told(rpc, servers, {"stable": 1}, other)
    early = following(rpc)
    async with kept_up(early):
        assert early.card("lite0").version == 1
    await told(rpc, servers, {"stable": 1}, {"stable": 1})


async def test_a_server_that_is_down_is_not_waited_for(servers: list[Labelled]) -> None:
    """What the living ones say of the label goes."""
    rpc = Replicas([servers[0].address, f"unix:{servers[0].models}/absent"])
    assert await rpc.labelled("lite0", "stable", timeout=2.0) == [1]
    await rpc.close()
