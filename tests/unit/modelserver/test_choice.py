"""Which engine computes a version, and why: real engines over real SavedModels, and an engine that is not there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from microtome.golden import golden_pixels, record
from modelserver.application import open_engines
from modelserver.batching.limits import read_batching
from modelserver.config.options import Options
from modelserver.engines.engine import Engine, LoadedModel, OnDemand
from modelserver.engines.openvino_engine import OpenVinoEngine
from modelserver.engines.openvino_runtime import OpenVinoSettings
from modelserver.engines.parallelism import SessionSettings
from modelserver.engines.tensorflow_engine import TensorFlowEngine
from modelserver.errors import Absent, Deviates, InvalidArgument, ResourceExhausted
from modelserver.metrics import Metrics
from modelserver.models.loading import Loaded, Loader
from tests.contract.tfserving.requests import images
from tests.contract.tfserving.tiny_models import SIDE, expected_top, golden_manifest, write_lone, write_tiny
from tests.unit.modelserver.test_openvino_refusals import eigenvalues, write_one


@pytest.fixture(scope="module")
def engines() -> Sequence[Engine]:
    """Both, as --engine=auto has them."""
    return OpenVinoEngine(OpenVinoSettings()), TensorFlowEngine(SessionSettings())


class Turned:
    """An engine that computes everything, and not rightly."""

    name = "openvino"

    def __init__(self, inner: Engine) -> None:
        self.inner = inner

    def threads(self, path: Path) -> int:
        """Return the inner engine's."""
        return self.inner.threads(path)

    def load(self, path: Path) -> LoadedModel:
        """Load, and have answers changed by a thousandth."""
        model = self.inner.load(path)
        run = model.run
        model.run = lambda feeds, fetches: [found * 1.001 for found in run(feeds, fetches)]  # type: ignore[method-assign]
        return model


class Full:
    """An engine whose machine has no memory left."""

    name = "openvino"

    def threads(self, _: Path) -> int:
        """Return one."""
        return 1

    def load(self, _: Path) -> LoadedModel:
        """Refuse."""
        raise ResourceExhausted("OOM when loading the model")


def absent() -> Engine:
    """Open an engine that is not installed."""
    raise Absent("TensorFlow is not installed here")


ABSENT = OnDemand("tensorflow", absent)


def load(engines: Sequence[Engine], path: Path) -> Loaded:
    """Load a version with the first engine that computes it."""
    loaded = Loader(engines, None, read_batching(Options(enable_batching=True)), Metrics()).load(path)
    loaded.model.close()
    return loaded


def test_openvino_is_taken_where_it_computes_the_golden_vectors(engines: Sequence[Engine], tmp_path: Path) -> None:
    """And TensorFlow is not even opened."""
    loaded = load([engines[0], ABSENT], write_lone(tmp_path / "1"))
    assert loaded.engine.startswith("openvino: it computes the golden vectors, deviation ")


def test_a_version_that_openvino_computes_otherwise_is_tensorflows(engines: Sequence[Engine], tmp_path: Path) -> None:
    """The reason has both numbers: what it deviates by, and what is allowed."""
    loaded = load([Turned(engines[0]), engines[1]], write_lone(tmp_path / "1"))
    assert loaded.engine.startswith("tensorflow: not by OpenVINO: It deviates from its golden vectors")
    assert "early by 0.001 of 0.0001, top by 0.001 of 0.0001" in loaded.engine


def test_a_version_with_an_unknown_operation_is_tensorflows(engines: Sequence[Engine], tmp_path: Path) -> None:
    """The reason names the operation; TensorFlow computes the golden vectors."""
    path = write_one(tmp_path / "1", eigenvalues)
    pixels = golden_pixels(1, 0, 2, SIDE, SIDE)
    golden = record(1, {"answer": np.linalg.eigvalsh(pixels[..., 0].astype(np.float32))})
    outputs = [{"name": "answer", "tolerance": 1e-4}]
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / "manifest.json").write_text(golden_manifest(1, outputs=outputs, golden=asdict(golden)))

    loaded = load(engines, path)

    assert loaded.engine.startswith("tensorflow: not by OpenVINO: OpenVINO cannot read this model: ")
    assert "SelfAdjointEigV2" in loaded.engine


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ('{"schema": 1, "max_batch_size": 16}', "It has no golden vectors to prove itself by"),
        (None, "OpenVINO computes 'serving_default' alone. Received signatures beside it: default, first"),
    ],
    ids=["unproved", "more signatures"],
)
def test_what_openvino_cannot_prove_or_serve_is_tensorflows(
    engines: Sequence[Engine], tmp_path: Path, manifest: str | None, reason: str
) -> None:
    """Every signature is answered then, with the same vectors."""
    path = write_tiny(tmp_path / "1", manifest=manifest or golden_manifest(1))
    loader = Loader(engines, None, read_batching(Options()), Metrics())
    loaded = loader.load(path)
    assert loaded.engine.startswith(f"tensorflow: not by OpenVINO: {reason}")
    pixels = images(2)
    top = loaded.model.signatures["serving_default"].outputs["top"].name
    assert np.allclose(expected_top(pixels, 1), loaded.model.run({"images:0": pixels}, [top])[0], rtol=1e-5)
    loaded.model.close()


def test_without_the_other_engine_the_first_ones_reason_counts(engines: Sequence[Engine], tmp_path: Path) -> None:
    """With its class, by which a deviation is not tried again, and with what to install."""
    with pytest.raises(Deviates, match=r"deviates from its golden vectors.*TensorFlow is not installed here"):
        load([Turned(engines[0]), ABSENT], write_lone(tmp_path / "1"))


def test_files_beside_the_graph_are_wrong_for_every_engine(engines: Sequence[Engine], tmp_path: Path) -> None:
    """None is opened for them; and a version that another engine computes has not failed."""
    metrics = Metrics()
    batching = read_batching(Options(enable_batching=True, enable_per_model_batching_parameters=True))
    path = write_lone(tmp_path / "1", manifest=golden_manifest(1, golden={"seed": 1}))
    with pytest.raises(Deviates, match="no golden vectors that can be read"):
        Loader([ABSENT, ABSENT], None, batching, metrics).load(path)
    path = write_tiny(tmp_path / "2", manifest=golden_manifest(2))
    Loader(engines, None, batching, metrics).load(path).model.close()
    assert 'status="fail"' not in metrics.page()
    (path / "batching_params.pbtxt").write_text("max_batch_size { value: 0 }")
    with pytest.raises(InvalidArgument, match="must be positive"):
        Loader([ABSENT, ABSENT], None, batching, metrics).load(path)


def test_too_little_memory_is_no_reason_to_take_more(tmp_path: Path) -> None:
    """TensorFlow takes more: the load fails, and is tried again as it was."""
    with pytest.raises(ResourceExhausted, match="OOM"):
        load([Full(), ABSENT], write_lone(tmp_path / "1"))


def test_flags_name_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by name, or the best first; what is not installed is not tried, unless it is named."""

    def names(**flags: str) -> tuple[list[str], str]:
        engines, why = open_engines(Options(**flags))  # type: ignore[arg-type]
        return [engine.name for engine in engines], why

    assert (["openvino", "tensorflow"], "") == names()
    assert (["openvino"], "--engine=openvino") == names(engine="openvino")
    assert (["tensorflow"], "--engine=tensorflow") == names(engine="tensorflow")
    assert (["tensorflow"], "OpenVINO does not read graphs tagged gpu") == names(saved_model_tags="gpu")
    monkeypatch.setitem(sys.modules, "openvino", None)
    found, why = names()
    assert (["tensorflow"], True) == (found, "the package openvino, which is not installed" in why)
    with pytest.raises(Absent, match="pip install openvino"):
        names(engine="openvino")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(Absent, match="pip install openvino"):
        names()


def test_an_engine_is_opened_once_when_it_is_needed(tmp_path: Path) -> None:
    """Not before."""
    opened: list[Engine] = []

    def opener() -> Engine:
        opened.append(TensorFlowEngine(SessionSettings()))
        return opened[-1]

    engine = OnDemand("tensorflow", opener)
    assert [] == opened
    assert 1 <= engine.threads(tmp_path)
    engine.load(write_tiny(tmp_path / "1")).close()
    assert [1] == [len(opened)]
