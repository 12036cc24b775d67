"""Batching: section 3 of the reference, and the rows of table 1.3 that begin with "batching on"."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np

from tests.contract.tfserving.requests import floats, images, predict, slow
from tests.contract.tfserving.server_process import Client, ServerProcess, eventually, status_of
from tests.contract.tfserving.tiny_models import expected_early, expected_top, write_tiny

Start = Callable[..., ServerProcess]

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


def test_1_3_batching_output_has_another_number_of_rows(batching_client: Client) -> None:
    """Nor can one with other rows than went in."""
    request = predict(signature="first", inputs={"rows": np.ones(2, np.float32)})
    text = (
        "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors"
    )
    assert (grpc.StatusCode.FAILED_PRECONDITION, text) == status_of(lambda: batching_client.predict(request))


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


PARAMETERS = """
max_batch_size {{ value: 4 }}
batch_timeout_micros {{ value: {timeout} }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: 1 }}
allowed_batch_sizes: 2
allowed_batch_sizes: 4
"""


def test_3_a_file_of_parameters_is_obeyed(start: Start, tiny_config: Path, tmp_path: Path) -> None:
    """Its size before the manifest's; a batch that is not full waits for the timeout, a full one does not."""
    (tmp_path / "batching.config").write_text(PARAMETERS.format(timeout=3_600_000_000))
    server = start(
        f"--model_base_path={tiny_config.parent / 'tiny'}", "--model_name=tiny", "--enable_batching",
        f"--batching_parameters_file={tmp_path / 'batching.config'}",
    )  # fmt: skip

    with Client(server.ready().address) as client:
        assert (INVALID, "Task size 5 is larger than maximum input batch size 4") == status_of(
            lambda: client.predict(predict(inputs={"images": images(5)}))
        )
        parts = [images(rows, rows) for rows in (1, 3)]
        calls = [client.prediction.Predict.future(predict(inputs={"images": part}), timeout=60) for part in parts]
        for part, call in zip(parts, calls, strict=True):
            assert np.allclose(expected_top(part, 2), floats(call.result().outputs["top"]), rtol=1e-4)


def test_3_a_version_with_a_file_of_its_own(start: Start, tmp_path: Path) -> None:
    """It is batched by its file, another is not batched at all, and a wrong file fails that version's load alone."""
    for version in (1, 2, 3):
        write_tiny(tmp_path / "tiny" / str(version))
    write_parameters(tmp_path / "tiny" / "1", "max_batch_size { value: 2 } allowed_batch_sizes: 2")
    write_parameters(tmp_path / "tiny" / "3", "max_batch_size { value: 2 } allowed_batch_sizes: 1")
    config = tmp_path / "models.config"
    config.write_text(
        f"""model_config_list {{ config {{ name: "tiny" base_path: "{tmp_path / "tiny"}" model_platform: "tensorflow"
            model_version_policy {{ all {{}} }} }} }}"""
    )
    server = start(
        f"--model_config_file={config}", "--enable_batching", "--enable_per_model_batching_parameters",
        "--max_num_load_retries=0",
    )  # fmt: skip

    with Client(server.ready().address) as client:
        eventually(lambda: client.states("tiny") == {3: "END", 2: "AVAILABLE", 1: "AVAILABLE"}, "3 is refused")
        assert (INVALID, "Task size 3 is larger than maximum input batch size 2") == status_of(
            lambda: client.predict(predict(inputs={"images": images(3)}, version=1))
        )
        pixels = images(1)
        answer = client.predict(predict(inputs={"images": pixels}, version=1))
        assert np.allclose(expected_top(pixels, 1), floats(answer.outputs["top"]), rtol=1e-4)
        assert client.predict(predict(inputs={"images": images(16)}, version=2)).outputs
        # Not batched, and still no more rows than its manifest says; the real server runs any number.
        assert (INVALID, "Task size 17 is larger than maximum input batch size 16") == status_of(
            lambda: client.predict(predict(inputs={"images": images(17)}, version=2))
        )
        scalar = predict(signature="whole", inputs={"whole": np.array(1, np.float32)}, version=2)
        assert client.predict(scalar).outputs
    assert "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 1; expected 2" in server.log


def write_parameters(version_dir: Path, text: str) -> None:
    """Put a file of batching parameters into a version."""
    (version_dir / "batching_params.pbtxt").write_text(text)


def test_3_a_file_of_parameters_without_the_flag_fails_the_start(start: Start, tmp_path: Path) -> None:
    """With the real server's words, before anything is loaded."""
    server = start(f"--model_base_path={tmp_path}", f"--batching_parameters_file={tmp_path / 'batching.config'}")

    assert 2 == server.exit_status()
    assert (
        "Failed to start server. Error: INVALID_ARGUMENT: server_options.batching_parameters_file is set without "
        "setting server_options.enable_batching to true."
    ) in server.log


def test_4_warm_up_goes_through_the_batcher(start: Start, tmp_path: Path) -> None:
    """A record larger than a batch fails the load, as it would fail as a request."""
    write_tiny(tmp_path / "tiny" / "1", warm_up=[predict(inputs={"images": images(5)})])
    (tmp_path / "batching.config").write_text(PARAMETERS.format(timeout=0))

    server = start(
        f"--model_base_path={tmp_path / 'tiny'}", "--enable_batching", "--max_num_load_retries=0",
        f"--batching_parameters_file={tmp_path / 'batching.config'}",
    )  # fmt: skip

    assert 1 == server.exit_status()
    assert "Task size 5 is larger than maximum input batch size 4" in server.log
