"""A version is compared with its manifest's golden vectors before it is available, by a real session."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelserver.application import accepted_deviation
from modelserver.batching.limits import read_batching
from modelserver.config.options import Options
from modelserver.engines.parallelism import SessionSettings
from modelserver.engines.tensorflow_engine import TensorFlowEngine
from modelserver.errors import Deviates
from modelserver.metrics import Metrics
from modelserver.models.loading import Loaded, Loader
from modelserver.models.model import Loading, Model
from modelserver.models.model_config import ModelConfig
from modelserver.models.version_policy import State
from tests.contract.tfserving.tiny_models import golden_manifest, write_tiny


def loaded(directory: Path, text: str, accepted: float = 0.0) -> Loaded:
    """Load version 1 of `tiny` under a manifest."""
    engine = TensorFlowEngine(SessionSettings())
    batching = read_batching(Options(enable_batching=True))
    return Loader([engine], None, batching, Metrics(), accepted=accepted).load(
        write_tiny(directory / "1", manifest=text)
    )


def test_a_faithful_version_loads(tmp_path: Path) -> None:
    """Alone and in a batch it computes what its manifest records."""
    assert loaded(tmp_path, golden_manifest(1)).model.signatures


def test_a_manifest_of_version_1_loads(tmp_path: Path) -> None:
    """For ever; it has nothing to compare."""
    assert loaded(tmp_path, '{"schema": 1, "max_batch_size": 16}').model.signatures


def test_other_weights_are_refused_and_can_be_accepted(tmp_path: Path) -> None:
    """The error names each output with its deviation, and the flag that accepts it."""
    said = r"deviates from its golden vectors.*early by .* of 0.0001, top by .*--accept_deviation"
    with pytest.raises(Deviates, match=said):
        loaded(tmp_path / "a", golden_manifest(2))
    assert loaded(tmp_path / "b", golden_manifest(2), accepted=100.0).model.signatures


def test_damaged_golden_vectors_are_refused(tmp_path: Path) -> None:
    """A manifest that cannot be read proves nothing."""
    with pytest.raises(Deviates, match="no golden vectors that can be read"):
        loaded(tmp_path, golden_manifest(1, golden={"seed": 1}))


def test_lower_precision_that_was_asked_for_accepts_its_own_deviation() -> None:
    """Else the flag would serve nothing."""
    assert accepted_deviation(Options()) == 0
    assert accepted_deviation(Options(mixed_precision="bfloat16")) == 0.06
    assert accepted_deviation(Options(mixed_precision="bfloat16", accept_deviation=0.5)) == 0.5


async def test_a_version_that_deviates_ends_with_the_reason_and_is_not_tried_again(tmp_path: Path) -> None:
    """It would deviate again; GetModelStatus has the reason."""
    (tmp_path / "1").mkdir()
    tries = []

    def load(path: Path) -> Loaded:
        tries.append(path)
        raise Deviates("It deviates.")

    with ThreadPoolExecutor(1) as threads:
        loading = Loading(load, threads, asyncio.Semaphore(1), retries=5, retry_interval=0.01, poll_wait=0.01)
        model = Model(ModelConfig("m", tmp_path), loading)
        watch = asyncio.create_task(model.watch())
        await asyncio.wait_for(model.settled.wait(), 10)
        await asyncio.sleep(0.1)
        watch.cancel()
    assert model.records[1].state is State.END
    assert str(model.records[1].error) == "FAILED_PRECONDITION: It deviates."
    assert len(tries) == 1
