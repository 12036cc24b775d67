"""Warm-up records: tiny, plain, one for each batch size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from exporter.warmup import FILE, batch_sizes, write_warmup
from tests.unit.exporter.small_models import PIXELS


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, [1]), (2, [1, 2]), (32, [1, 2, 4, 8, 16, 32]), (48, [1, 2, 4, 8, 16, 32, 48])]
)
def test_batch_sizes_are_powers_of_two_and_the_largest(largest: int, sizes: list[int]) -> None:
    """A model server that pads batches uses exactly these."""
    assert batch_sizes(largest) == sizes


def test_each_record_stands_for_a_black_batch(tmp_path: Path) -> None:
    """One value broadcasts to the whole tensor, in a record that is much smaller than it."""
    write_warmup(tmp_path, "small", PIXELS, 4)
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(tmp_path / FILE))]
    shapes = []
    for record in records:
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        assert (request.model_spec.name, request.model_spec.signature_name) == ("small", "serving_default")
        batch = tf.make_ndarray(request.inputs["images"])
        assert batch.dtype == np.uint8
        assert not batch.any()
        assert request.inputs["images"].ByteSize() <= 40
        shapes.append(batch.shape)
    assert shapes == [(1, 8, 8, 3), (2, 8, 8, 3), (4, 8, 8, 3)]


def test_records_are_the_same_on_every_run(tmp_path: Path) -> None:
    """Nothing in the file depends on when or where it is written."""
    contents = []
    for _ in range(2):
        write_warmup(tmp_path, "small", PIXELS, 4)
        contents.append((tmp_path / FILE).read_bytes())
    assert contents[0] == contents[1]
