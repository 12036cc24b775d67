"""The life of a model, over real directories and a loader that needs no TensorFlow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelserver.errors import NotFound
from modelserver.models.catalogue import Catalogue
from modelserver.models.model import Loading
from modelserver.models.model_config import ModelConfig
from modelserver.models.version_policy import State
from tests.unit.modelserver.stand_ins import FolderLoader, eventually


@pytest.fixture
async def loader() -> FolderLoader:
    """Return the loader that all use."""
    return FolderLoader()


@pytest.fixture
async def catalogue(loader: FolderLoader) -> AsyncIterator[Catalogue]:
    """Return a catalogue that looks a hundred times a second, and tries three times."""
    with ThreadPoolExecutor(1) as threads:
        catalogue = Catalogue(
            Loading(loader.load, threads, asyncio.Semaphore(1), retries=2, retry_interval=0.05, poll_wait=0.01)
        )
        yield catalogue
        await catalogue.close()


def _states(catalogue: Catalogue, name: str = "m") -> dict[int, State]:
    try:
        return {record.number: record.state for record in catalogue.records(name, None)}
    except NotFound:
        return {}


def _version(model: Path, version: int, *, broken: bool = False) -> Path:
    path = model / str(version)
    path.mkdir(parents=True)
    if broken:
        (path / "broken").touch()
    return path


async def test_a_failed_load_is_tried_again_as_often_as_told(
    catalogue: Catalogue, loader: FolderLoader, tmp_path: Path
) -> None:
    """Once and two retries; then END, with the reason, and no further try while it stays."""
    _version(tmp_path, 1, broken=True)
    (model,) = catalogue.apply([ModelConfig("m", tmp_path)])

    await asyncio.wait_for(model.settled.wait(), 10)

    assert ["1", "1", "1"] == loader.loaded
    (record,) = catalogue.records("m", None)
    assert (State.END, "broken") == (record.state, record.error.message if record.error else None)


async def test_a_retry_can_succeed(catalogue: Catalogue, loader: FolderLoader, tmp_path: Path) -> None:
    """And leaves no trace of the failure."""
    broken = _version(tmp_path, 1, broken=True)
    (model,) = catalogue.apply([ModelConfig("m", tmp_path)])
    await asyncio.wait_for(model.attempted.wait(), 10)

    (broken / "broken").unlink()

    await eventually(lambda: _states(catalogue) == {1: State.AVAILABLE})
    assert catalogue.records("m", 1)[0].error is None


async def test_a_version_that_goes_while_it_is_retried_is_given_up(
    catalogue: Catalogue, loader: FolderLoader, tmp_path: Path
) -> None:
    """And begins again, whole, when it comes back."""
    broken = _version(tmp_path, 1, broken=True)
    (model,) = catalogue.apply([ModelConfig("m", tmp_path)])
    await asyncio.wait_for(model.attempted.wait(), 10)

    broken.rename(tmp_path / ".away")
    await eventually(lambda: _states(catalogue) == {1: State.END})
    _version(tmp_path, 1)

    await eventually(lambda: _states(catalogue) == {1: State.AVAILABLE})


async def test_what_is_loaded_stays_when_the_directory_cannot_be_read(
    catalogue: Catalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A network share that is away must not take the service along; the log says so once, not a hundred times."""
    _version(tmp_path / "m", 1)
    (model,) = catalogue.apply([ModelConfig("m", tmp_path / "m")])
    await asyncio.wait_for(model.settled.wait(), 10)

    (tmp_path / "m").rename(tmp_path / "away")
    await eventually(lambda: "Could not find base path" in caplog.text)
    await asyncio.sleep(0.1)

    assert 1 == caplog.text.count("Could not find base path for servable m")
    assert {1: State.AVAILABLE} == _states(catalogue)


async def test_a_directory_that_is_empty_unloads_all(catalogue: Catalogue, tmp_path: Path) -> None:
    """As the real server does: absence of versions is a wish, absence of the directory is a fault."""
    version = _version(tmp_path, 1)
    (model,) = catalogue.apply([ModelConfig("m", tmp_path)])
    await asyncio.wait_for(model.settled.wait(), 10)

    version.rename(tmp_path / ".away")

    await eventually(lambda: _states(catalogue) == {1: State.END})


async def test_an_unloaded_version_is_closed_once_nobody_holds_it(catalogue: Catalogue, tmp_path: Path) -> None:
    """Not before."""
    _version(tmp_path, 1)
    (model,) = catalogue.apply([ModelConfig("m", tmp_path)])
    await asyncio.wait_for(model.settled.wait(), 10)
    version = model.available()[1]
    version.acquire()

    _version(tmp_path, 2)
    await eventually(lambda: _states(catalogue) == {2: State.AVAILABLE, 1: State.UNLOADING})
    assert not getattr(version.model, "closed", None)
    version.release()

    await eventually(lambda: _states(catalogue) == {2: State.AVAILABLE, 1: State.END})
    assert getattr(version.model, "closed", None)


async def test_a_model_that_left_can_come_back(catalogue: Catalogue, tmp_path: Path) -> None:
    """Even in the same moment."""
    _version(tmp_path, 1)
    config = ModelConfig("m", tmp_path)
    (model,) = catalogue.apply([config])
    await asyncio.wait_for(model.settled.wait(), 10)

    assert [] == catalogue.apply([])
    await eventually(lambda: _states(catalogue) == {1: State.END})
    assert [model] == catalogue.apply([config])
    await asyncio.wait_for(model.settled.wait(), 10)
    assert {1: State.AVAILABLE} == _states(catalogue)

    catalogue.apply([])
    assert [model] == catalogue.apply([config])
    await asyncio.wait_for(model.settled.wait(), 10)
    await eventually(lambda: _states(catalogue) == {1: State.AVAILABLE})
