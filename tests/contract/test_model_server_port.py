"""What the core may expect of a model server: the real one behind its catalogue, and the fake of the unit tests."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import numpy as np
import pytest

from microtome.errors import DeadlineExceeded, ModelNotReady, UnknownModel, UnknownVersion
from microtome.manifest import ModelCard, TokensSpec
from service.core.ports import ModelServer, Pixels, Tokens, Towers
from service.core.timeouts import Deadline
from service.model_server.batcher import Batcher
from service.model_server.registry import ModelRegistry
from service.model_server.replicas import Replicas
from service.model_server.watcher import WatchTiming
from service.telemetry.logs import configure
from service.telemetry.metrics import Metrics
from tests.e2e.processes import ModelServer as ModelServerProcess
from tests.fakes.model_server import FakeModelServer, card, towers


@pytest.fixture(scope="module")
def process(lite0_models: Path, tower_models: Path) -> Iterator[ModelServerProcess]:
    """A real model server with the default recipe, and with a text tower."""
    # pytest's own directories have paths too long for a socket.
    with TemporaryDirectory(prefix="microtome-") as path:
        directory = Path(path)
        for model in (lite0_models / "lite0", tower_models / "clip_text"):
            shutil.copytree(model, directory / "models" / model.name)
        process = ModelServerProcess(directory, directory / "models")
        process.start()
        yield process
        process.destroy()


@pytest.fixture(params=["fake", "real", "batched fake", "batched real", "fake of texts", "batched real of texts"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[ModelServer]:
    """Each model server, ready."""
    batched, texts = request.param.startswith("batched"), request.param.endswith("texts")
    if "fake" in request.param:
        fake = FakeModelServer(towers().of("Text") if texts else card())
        yield Batcher(fake, slots=1, metrics=Metrics()) if batched else fake
        return
    process: ModelServerProcess = request.getfixturevalue("process")
    rpc = Replicas([process.address])
    log, name = configure("json", "error"), "clip_text" if texts else "lite0"
    catalogue = ModelRegistry(rpc, [name], timing=WatchTiming(), metrics=Metrics(), log=log)
    keeping = asyncio.create_task(catalogue.run())
    async with asyncio.timeout(30):
        while catalogue.readiness()[name] is not None:  # noqa: ASYNC110, polled like a probe
            await asyncio.sleep(0.01)
    yield Batcher(catalogue, slots=2, metrics=Metrics()) if batched else catalogue
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
    await rpc.close()


def only(server: ModelServer) -> ModelCard:
    """Return the card of the server's only model."""
    (found,) = server.cards().values()
    assert found is not None
    return found


def pixels(card: ModelCard, count: int) -> list[Pixels] | list[Tokens]:
    """Make different images of the right size, or texts of the right length."""
    spec, random = card.manifest.input, np.random.default_rng(count)
    if isinstance(spec, TokensSpec):
        return list(random.integers(0, spec.vocabulary, (count, spec.length), np.int32))
    return list(random.integers(0, 256, (count, *spec.shape), np.uint8))


async def test_a_model_is_found_by_its_name_only(server: ModelServer) -> None:
    """The card found by name is the one listed; another name is unknown, and the error lists the known ones."""
    found = only(server)
    assert found == server.card(found.name)
    assert Towers.alone(found) == server.towers(found.name)
    assert ({found.name: None}, {}) == (dict(server.readiness()), dict(server.families()))
    with pytest.raises(UnknownModel, match=found.name):
        server.card("nix")


async def test_vectors_are_what_was_asked_for(server: ModelServer) -> None:
    """Float64Reference the outputs asked for, each float32 [N, D] as the manifest says, all finite."""
    found = only(server)
    for names in ([found.manifest.default_output], list(found.outputs)):
        vectors = await server.infer(found, names, pixels(found, 3))
        assert set(names) == set(vectors)
        for name in names:
            assert (3, found.outputs[name].dim) == vectors[name].shape
            assert np.float32 == vectors[name].dtype
            assert np.isfinite(vectors[name]).all()


async def test_a_vector_does_not_depend_on_its_batch_mates(server: ModelServer) -> None:
    """Alone or among others: the same vector within 1e-5 relative."""
    found = only(server)
    name, images = found.manifest.default_output, pixels(found, 4)
    together = (await server.infer(found, [name], images))[name]
    for row in range(4):
        alone = (await server.infer(found, [name], images[row : row + 1]))[name][0]
        assert np.linalg.norm(alone - together[row]) <= 1e-5 * np.linalg.norm(alone)


async def test_a_version_that_is_not_there_is_not_ready(server: ModelServer) -> None:
    """Another version never answers in its place, and looking again finds the one that is there."""
    found = only(server)
    gone = replace(found, version=found.version + 7)
    with pytest.raises(ModelNotReady):
        await server.infer(gone, [found.manifest.default_output], pixels(found, 1))
    assert found == await server.renewed(gone)


async def test_versions_are_told_with_their_state(server: ModelServer) -> None:
    """The one in use is available; a model that is not served here has none."""
    found = only(server)
    assert {found.version: "available"} == dict(server.versions(found.name))
    with pytest.raises(UnknownModel, match=found.name):
        server.versions("nix")


async def test_nothing_is_sent_once_the_time_is_over(server: ModelServer) -> None:
    """A caller whose deadline is past is told so, and no inference is wasted on it."""
    found = only(server)
    with pytest.raises(DeadlineExceeded):
        await server.infer(found, [found.manifest.default_output], pixels(found, 1), deadline=Deadline(monotonic() - 1))
    assert 1 == len(
        (await server.infer(found, [found.manifest.default_output], pixels(found, 1), deadline=Deadline()))[
            found.manifest.default_output
        ]
    )


async def test_a_version_is_found_by_its_number(server: ModelServer) -> None:
    """The one in use is found by its number too; of another number the error lists what there is."""
    found = only(server)
    assert found == await server.card_of(found.name, found.version)
    with pytest.raises(UnknownVersion, match=f"Available: {found.version}"):
        await server.card_of(found.name, found.version + 7)
    with pytest.raises(UnknownModel, match=found.name):
        await server.card_of("nix", 1)
