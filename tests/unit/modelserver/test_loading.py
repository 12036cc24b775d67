"""Warm-up requests: how often they run, and that they meet the same limits as others (section 4)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from microtome.tfserving.v1 import serving_pb2 as pb
from modelserver.batching.limits import BatchLimits
from modelserver.errors import InvalidArgument
from modelserver.models.loading import warm_up
from tests.contract.tfserving.requests import predict
from tests.contract.tfserving.tiny_models import record_warm_up
from tests.unit.modelserver.stand_ins import DoublingModel


@pytest.fixture
def version_dir(tmp_path: Path) -> Path:
    """Return a version with one record, of three images."""
    record_warm_up(tmp_path, [predict(inputs={"images": np.zeros((3, 8, 8, 3), np.uint8)})])
    return tmp_path


@pytest.fixture
def model() -> DoublingModel:
    """Return a model that takes images."""
    model = DoublingModel()
    info = pb.TensorInfo(name="images:0", dtype=pb.DT_UINT8)
    info.tensor_shape.dim.extend([pb.TensorShapeProto.Dim(size=-1)] * 4)
    images = {"images": info}
    model.signatures = {"serving_default": pb.SignatureDef(inputs=images, outputs=images)}
    return model


@pytest.mark.parametrize(("iterations", "runs"), [(0, 1), (1, 1), (3, 3)])
def test_4_every_record_runs_as_often_as_asked(
    version_dir: Path, model: DoublingModel, iterations: int, runs: int
) -> None:
    """0 means once; what is returned is the number of records."""
    assert 1 == warm_up(model, version_dir, iterations=iterations)
    assert [3] * runs == model.batches


def test_4_records_are_padded_as_requests_are(version_dir: Path, model: DoublingModel) -> None:
    """So the sizes are warm that will be run."""
    warm_up(model, version_dir, BatchLimits(8, allowed_sizes=(4, 8)))

    assert [4] == model.batches


def test_4_a_record_that_is_too_large_fails(version_dir: Path, model: DoublingModel) -> None:
    """And with it the load."""
    with pytest.raises(InvalidArgument, match="Task size 3 is larger than maximum input batch size 2"):
        warm_up(model, version_dir, BatchLimits(2))


def test_4_the_1001st_record_fails_the_load(tmp_path: Path, model: DoublingModel) -> None:
    """A thousand are run; one more, and the version does not start, with the real server's words."""
    record = predict(inputs={"images": np.zeros((1, 8, 8, 3), np.uint8)})
    record_warm_up(tmp_path, [record] * 1000)
    assert 1000 == warm_up(model, tmp_path)
    record_warm_up(tmp_path, [record] * 1001)

    with pytest.raises(InvalidArgument) as refused:
        warm_up(model, tmp_path)

    path = tmp_path / "assets.extra" / "tf_serving_warmup_requests"
    assert f"Number of warmup records exceeds the maximum (1000) at {path}" == refused.value.message
