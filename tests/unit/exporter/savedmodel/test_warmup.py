"""Warm-up records: tiny, plain, one for each batch size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from exporter.savedmodel.serving_files import WARMUP_FILE, batch_sizes, write_warmup
from tests.unit.exporter.small_models import DEEP, VECTOR, small_recipe

RECIPE = small_recipe(VECTOR, DEEP)


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, [1]), (2, [1, 2]), (32, [1, 2, 4, 8, 16, 32]), (48, [1, 2, 4, 8, 16, 32, 48])]
)
def test_batch_sizes_are_powers_of_two_and_the_largest(largest: int, sizes: list[int]) -> None:
    """A model server that pads batches uses exactly these."""
    assert batch_sizes(largest) == sizes


def test_each_record_stands_for_a_black_batch(tmp_path: Path) -> None:
    """One value broadcasts to the whole tensor, in a record that is much smaller than it."""
    write_warmup(tmp_path, RECIPE)
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(tmp_path / WARMUP_FILE))]
    asked = []
    for record in records:
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        assert (request.model_spec.name, request.model_spec.signature_name) == ("small", "serving_default")
        batch = tf.make_ndarray(request.inputs["images"])
        assert batch.dtype == np.uint8
        assert not batch.any()
        assert request.inputs["images"].ByteSize() <= 40
        assert batch.shape[1:] == (8, 8, 3)
        asked.append((len(batch), list(request.output_filter)))
    assert asked == [(1, []), (2, []), (4, []), (1, ["vector"]), (1, ["deep"])]


def test_single_output_needs_no_record_of_its_own(tmp_path: Path) -> None:
    """Asking for the only output is asking for all of them."""
    write_warmup(tmp_path, small_recipe(VECTOR))
    assert len(list(tf.data.TFRecordDataset(str(tmp_path / WARMUP_FILE)))) == len(batch_sizes(4))


def test_records_are_the_same_on_every_run(tmp_path: Path) -> None:
    """Nothing in the file depends on when or where it is written."""
    contents = []
    for _ in range(2):
        write_warmup(tmp_path, RECIPE)
        contents.append((tmp_path / WARMUP_FILE).read_bytes())
    assert contents[0] == contents[1]
