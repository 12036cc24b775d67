"""Batching: section 3 of the reference, and the rows of table 1.3 that begin with "batching on"."""

from __future__ import annotations

import os

import grpc
import numpy as np

from tests.contract.tfserving.requests import floats, images, predict, slow
from tests.contract.tfserving.server_process import Client, status_of
from tests.contract.tfserving.tiny_models import expected_early, expected_top

INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
MAX_BATCH = 16  # what the manifest of tiny says


def test_3_everyone_gets_the_rows_they_asked_for(batching_client: Client) -> None:
    """Sixty-four requests at once, of different sizes, outputs and versions."""
    asked = [(images(1 + seed % 5, seed), ("early", "top")[seed % 2], 1 + seed // 2 % 2) for seed in range(64)]

    calls = [
        batching_client.prediction.Predict.future(
            predict("tiny", output, inputs={"images": pixels}, version=version), timeout=30
        )
        for pixels, output, version in asked
    ]

    for call, (pixels, output, version) in zip(calls, asked, strict=True):
        oracle = expected_early if output == "early" else expected_top
        assert np.allclose(oracle(pixels, version), floats(call.result().outputs[output]), rtol=1e-4)


def test_3_a_request_of_another_shape_or_type_harms_nobody(batching_client: Client) -> None:
    """Stricter than the real server, where mates of other shapes fail together (FAILED_PRECONDITION, INTERNAL)."""
    good = [predict("tiny", "early", inputs={"images": images(1, seed)}) for seed in range(16)]
    larger = [predict("tiny", "early", inputs={"images": images(1, seed, side=9)}) for seed in range(16)]
    bad = [
        predict("tiny", "top", inputs={"images": np.zeros((1, 8, 8, 4), np.uint8)}),
        predict("tiny", "early", inputs={"images": np.zeros((1, 8, 8, 3), np.float32)}),
        predict("tiny", "early", inputs={"images": np.zeros((8, 8, 3), np.uint8)}),
    ]

    calls = [
        batching_client.prediction.Predict.future(request, timeout=30)
        for trio in zip(good, larger, bad * 6, strict=False)
        for request in trio
    ]

    codes = [call.code() for call in calls]
    assert [grpc.StatusCode.OK] * 16 == codes[0::3]
    assert [grpc.StatusCode.OK] * 16 == codes[1::3]
    assert {INVALID} == set(codes[2::3])


def test_1_3_batching_scalar_input(batching_client: Client) -> None:
    """A scalar cannot be batched."""
    request = predict(signature="whole", inputs={"whole": np.array(1, np.float32)})

    assert (INVALID, "Batching Run() input tensors must have at least one dimension") == status_of(
        lambda: batching_client.predict(request)
    )


def test_1_3_batching_inputs_differ_in_their_first_dimension(batching_client: Client) -> None:
    """Nor can inputs that disagree about the number of rows."""
    request = predict(signature="pair", inputs={"a": np.zeros(1, np.float32), "b": np.zeros(2, np.float32)})

    assert (INVALID, "Batching Run() input tensors must have equal 0th-dimension size") == status_of(
        lambda: batching_client.predict(request)
    )


def test_1_3_batching_request_larger_than_max_batch_size(batching_client: Client) -> None:
    """The limit is that of the model's manifest; at the limit all is well."""
    assert batching_client.predict(predict(inputs={"images": images(MAX_BATCH)})).outputs
    assert (INVALID, "Task size 17 is larger than maximum input batch size 16") == status_of(
        lambda: batching_client.predict(predict(inputs={"images": images(MAX_BATCH + 1)}))
    )


def test_1_3_batching_output_is_not_batch_major(batching_client: Client) -> None:
    """A scalar output cannot be divided."""
    request = predict(signature="sum", inputs={"rows": np.ones(3, np.float32)})

    assert (PRECONDITION, "Batched output tensor has 0 dimensions") == status_of(
        lambda: batching_client.predict(request)
    )


def test_1_3_batching_queue_full(batching_client: Client) -> None:
    """UNAVAILABLE at once; those who were let in are answered."""
    full_batch = slow(1500)
    full_batch.inputs["laps"].CopyFrom(predict(inputs={"a": np.full(MAX_BATCH, 1500, np.int32)}).inputs["a"])
    waiting = 10
    count = (os.cpu_count() or 1) + waiting + 5

    calls = [batching_client.prediction.Predict.future(full_batch, timeout=60) for _ in range(count)]

    refused = {call.details() for call in calls if call.code() is grpc.StatusCode.UNAVAILABLE}
    text = (
        "The batch scheduling queue to which this task was submitted is full; currently 10 batches enqueued and "
        "max_enqueued_batches is 10"
    )
    assert {text} == refused
    assert {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE} == {call.code() for call in calls}
    assert waiting < sum(call.code() is grpc.StatusCode.OK for call in calls)
