"""Section 3 of the reference, rule by rule, where no server is needed: the file, the limits, the queue, the padding."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from microtome.tfserving.v1.server_files_pb2 import BatchingParameters
from modelserver.batching.limits import ROWS_PER_THREAD, Batching, BatchLimits, read_batching
from modelserver.batching.queue import BatchQueue, Task
from modelserver.batching.run import run_batch
from modelserver.batching.scheduler import Scheduler
from modelserver.batching.version import Version
from modelserver.config.manifest import MANIFEST
from modelserver.config.options import Options, parse
from modelserver.errors import InvalidArgument, Unavailable
from modelserver.metrics import Metrics
from modelserver.tensors.codec import Array
from tests.unit.modelserver.stand_ins import DoublingModel

EVERYTHING = """
max_batch_size { value: 32 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 64 }
num_batch_threads { value: 4 }
thread_pool_name { value: "pool" }
allowed_batch_sizes: 1
allowed_batch_sizes: 8
allowed_batch_sizes: 32
pad_variable_length_inputs: true
enable_large_batch_splitting { value: true }
max_execution_batch_size { value: 16 }
"""


def parse_parameters(text: str) -> BatchingParameters:
    """Read a ``BatchingParameters``."""
    return text_format.Parse(text, BatchingParameters())


def test_3_all_nine_fields_are_read() -> None:
    """In their own forms, wrapped and plain."""
    parameters = parse_parameters(EVERYTHING)
    assert BatchLimits(32, 64, 0.002, (1, 8, 32), True, True, 16) == BatchLimits.of(parameters)
    assert (4, "pool") == (Batching(True, parameters).threads, Batching(True, parameters).thread_pool_name)


def test_3_the_defaults_are_the_real_servers() -> None:
    """An empty file: 1,000 rows, no waiting, ten batches, a thread per core."""
    parameters = parse_parameters("")
    assert BatchLimits(1000, 10, 0.0, (), False, False, None) == BatchLimits.of(parameters)
    assert (None, "batch_threads") == (Batching(True, parameters).threads, Batching(True, parameters).thread_pool_name)


@pytest.mark.parametrize(
    "text", ["max_batch_size: 32", "allowed_batch_sizes { value: 1 }", "batch_size { value: 1 }", "max_batch_size {"]
)
def test_8_the_wrong_form_of_a_field_is_an_error(text: str) -> None:
    """Neither a wrapped field without its wrapper, nor a plain one with, nor an unknown one."""
    with pytest.raises(text_format.ParseError):
        parse_parameters(text)


def _options(*flags: str) -> Options:
    options, _ = parse(["--model_base_path=/m", *flags])
    return options


def test_3_a_file_without_the_flag_is_an_error(tmp_path: Path) -> None:
    """With the real server's words."""
    with pytest.raises(InvalidArgument) as error:
        read_batching(_options(f"--batching_parameters_file={tmp_path / 'x'}"))

    assert (
        "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        == error.value.message
    )


def test_3_a_missing_or_broken_file_is_an_error(tmp_path: Path) -> None:
    """At the start, before any model is loaded."""
    flags = _options("--enable_batching", f"--batching_parameters_file={tmp_path / 'b.config'}")
    with pytest.raises(InvalidArgument, match=r"Invalid protobuf file: '.*b.config'"):
        read_batching(flags)
    (tmp_path / "b.config").write_text("max_batch_size: 32")
    with pytest.raises(InvalidArgument, match=r"Invalid protobuf file: '.*b.config'"):
        read_batching(flags)
    (tmp_path / "b.config").write_text("num_batch_threads { value: 0 }")
    with pytest.raises(InvalidArgument, match="num_batch_threads must be positive; was 0"):
        read_batching(flags)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "max_batch_size { value: 32 } allowed_batch_sizes: 8 allowed_batch_sizes: 16",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 16; expected 32",
        ),
        ("allowed_batch_sizes: 8", "last entry was 8; expected 1000"),
        (  # the check is against max_batch_size, even where batches are cut smaller
            """max_batch_size { value: 256 } allowed_batch_sizes: 32 enable_large_batch_splitting { value: true }
               max_execution_batch_size { value: 32 }""",
            "last entry was 32; expected 256",
        ),
        ("max_batch_size { value: 4 } allowed_batch_sizes: [2, 2, 4]", "to be positive and to increase"),
        ("max_batch_size { value: 0 }", "input_batch_size_limit must be positive; was 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
        (
            "enable_large_batch_splitting { value: true } max_enqueued_batches { value: 0 }",
            "max_enqueued_batches must be positive; was 0",
        ),
        (
            """max_batch_size { value: 8 } enable_large_batch_splitting { value: true }
               max_execution_batch_size { value: 9 }""",
            "input_batch_size_limit must be greater than or equal to max_execution_batch_size",
        ),
    ],
)
def test_3_parameters_that_contradict_each_other_fail_the_load(text: str, complaint: str) -> None:
    """Not the start: the real server finds out when it loads a version, and so do we."""
    with pytest.raises(InvalidArgument) as error:
        Batching(True, parse_parameters(text)).limits_for(Path("/m/1"), 2)

    assert complaint in error.value.message


def test_3_no_waiting_batches_means_one() -> None:
    """``max_enqueued_batches { value: 0 }`` without splitting is rewritten."""
    assert 1 == BatchLimits.of(parse_parameters("max_enqueued_batches { value: 0 }")).max_enqueued_batches


def test_3_a_version_may_say_for_itself(tmp_path: Path) -> None:
    """A version without a file of its own is not batched; the number of threads stays a common affair."""
    batching = Batching(True, parse_parameters("num_batch_threads { value: 3 }"), per_model=True)
    assert batching.limits_for(tmp_path, 2) is None

    (tmp_path / "batching_params.pbtxt").write_text("max_batch_size { value: 5 } num_batch_threads { value: 9 }")
    limits = batching.limits_for(tmp_path, 2)

    assert limits is not None
    assert (5, 3) == (limits.max_batch_size, batching.threads)
    (tmp_path / "batching_params.pbtxt").write_text("max_batch_size: 5")
    with pytest.raises(InvalidArgument, match=r"Invalid protobuf file: '.*batching_params.pbtxt'"):
        batching.limits_for(tmp_path, 2)


def test_without_a_file_the_manifest_bounds_the_batch(tmp_path: Path) -> None:
    """Ours: the exporter knows how much its model bears. A file, where there is one, has the last word."""
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "manifest.json").write_text('{"max_batch_size": 8}')

    assert BatchLimits(8) == Batching(True).limits_for(tmp_path, 2)
    assert Batching(False).limits_for(tmp_path, 2) is None
    by_file = Batching(True, parse_parameters("max_batch_size { value: 9 }")).limits_for(tmp_path, 2)
    assert by_file is not None
    assert 9 == by_file.max_batch_size


def _fill(queue: BatchQueue, rows: int, loop: asyncio.AbstractEventLoop) -> list[int]:
    sizes = queue.admit(rows)
    for size in sizes:
        queue.put(Task({}, size, 0.0, None, loop.create_future()))
    return sizes


async def test_3_large_requests_are_split_over_batches() -> None:
    """The open batch is filled first; nothing is larger than ``max_execution_batch_size``."""
    queue, loop = BatchQueue(BatchLimits(100, 4, splits=True, largest_batch=8)), asyncio.get_running_loop()

    assert [3] == _fill(queue, 3, loop)
    assert [5, 8, 4] == _fill(queue, 17, loop)

    assert [8, 8, 4] == [batch.rows for batch in queue.batches]


async def test_1_3_splitting_queue_full() -> None:
    """The whole request has to fit, and the text says how much would."""
    queue, loop = BatchQueue(BatchLimits(100, 2, splits=True, largest_batch=8)), asyncio.get_running_loop()
    _fill(queue, 3, loop)

    with pytest.raises(Unavailable) as error:
        queue.admit(14)

    assert (
        "The batch scheduling queue to which this task was submitted is full; task size is 14 but scheduling capacity "
        "is only 13 (num_enqueued_batches=1, max_enqueued_batches=2, open_batch_size=3, max_execution_batch_size=8)"
        == error.value.message
    )
    with pytest.raises(InvalidArgument, match="Task size 101 is larger than maximum input batch size 100"):
        queue.admit(101)


async def test_3_a_split_request_is_answered_as_one() -> None:
    """In its own order, though it ran as three batches."""
    model = DoublingModel()
    version = Version("m", 1, model, BatchLimits(100, 10, splits=True, largest_batch=4))
    with ThreadPoolExecutor(2) as threads:
        (answer,) = await Scheduler(threads, 2, Metrics()).run(version, {"x": np.arange(10.0)}, ["y"])

    assert [2.0 * number for number in range(10)] == answer.tolist()
    assert [2, 4, 4] == sorted(model.batches)


class RememberingModel(DoublingModel):
    """Keeps what it was fed."""

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """Remember, then double."""
        self.fed = dict(feeds)
        return super().run(feeds, fetches)


def test_3_batches_are_padded_with_the_first_row_of_the_last_task() -> None:
    """Up to the next allowed size; no caller sees the padding."""
    model = RememberingModel()
    limits = BatchLimits(8, allowed_sizes=(2, 4, 8))

    answers = run_batch(model, [{"x": np.array([1.0])}, {"x": np.array([5.0, 6.0, 7.0, 8.0])}], ["y"], limits)

    assert [1, 5, 6, 7, 8, 5, 5, 5] == model.fed["x"].tolist()
    assert [[2.0], [10.0, 12.0, 14.0, 16.0]] == [answer[0].tolist() for answer in answers]


def test_3_a_batch_of_nothing_is_not_padded() -> None:
    """The real server would crash: there is no row to copy."""
    model = RememberingModel()

    answers = run_batch(model, [{"x": np.zeros((0, 3))}], ["y"], BatchLimits(4, allowed_sizes=(4,)))

    assert (0, 3) == model.fed["x"].shape == answers[0][0].shape


def test_3_inputs_of_variable_length_are_padded_with_their_first_element() -> None:
    """Each to the largest of the batch."""
    model = RememberingModel()
    mates = [{"x": np.array([[1, 2]])}, {"x": np.array([[7, 8, 9], [4, 5, 6]])}]

    run_batch(model, mates, ["y"], BatchLimits(8, pad_inputs=True))

    assert [[1, 2, 1], [7, 8, 9], [4, 5, 6]] == model.fed["x"].tolist()


async def test_3_only_padding_lets_shapes_share_a_batch() -> None:
    """Ranks never mix."""
    for pads, batches in ((True, [1, 1, 2]), (False, [1, 1, 1, 1])):
        model = DoublingModel(open_at_once=False)
        version = Version("m", 1, model, BatchLimits(pad_inputs=pads))
        with ThreadPoolExecutor(1) as threads:
            scheduler = Scheduler(threads, 1, Metrics())
            shapes = [(1, 2), (1, 2), (1, 3), (1, 2, 2)]
            first = asyncio.create_task(scheduler.run(version, {"x": np.ones(shapes[0])}, ["y"]))
            assert await asyncio.to_thread(model.began.acquire, timeout=10)
            others = [asyncio.create_task(scheduler.run(version, {"x": np.ones(s)}, ["y"])) for s in shapes[1:]]
            await asyncio.sleep(0)
            model.gate.set()
            await asyncio.gather(first, *others)
        assert batches == sorted(model.batches)


async def test_3_a_free_thread_waits_for_the_timeout_when_there_is_one() -> None:
    """Two requests one after the other share a batch although nothing else runs; a full batch does not wait."""
    model = DoublingModel()
    version = Version("m", 1, model, BatchLimits(3, timeout=3600.0))
    with ThreadPoolExecutor(1) as threads:
        scheduler = Scheduler(threads, 1, Metrics())
        first = asyncio.create_task(scheduler.run(version, {"x": np.ones(1)}, ["y"]))
        await asyncio.sleep(0)

        await asyncio.wait_for(scheduler.run(version, {"x": np.ones(2)}, ["y"]), 10)

        await first
    assert [3] == model.batches


def _telling(directory: Path, outputs: str = '{"flops": 1e9}') -> Path:
    """Write a manifest of outputs."""
    (directory / MANIFEST).parent.mkdir(parents=True)
    (directory / MANIFEST).write_text(f'{{"max_batch_size": 64, "outputs": [{outputs}]}}', encoding="utf-8")
    return directory


def test_few_rows_are_computed_at_a_time_and_large_requests_are_still_taken(tmp_path: Path) -> None:
    """As many rows may wait as before, in parts for the threads that share in each, which wait for no mates."""
    plain, version = BatchLimits(), _telling(tmp_path)
    for threads in (1, 2):
        limits = Batching(True).limits_for(version, threads)
        assert limits is not None
        assert (limits.splits, limits.timeout) == (True, 0.0)
        assert (64, threads * ROWS_PER_THREAD) == (limits.max_batch_size, limits.batch_size)
        assert limits.max_enqueued_batches * limits.batch_size == plain.max_enqueued_batches * plain.batch_size


def test_batches_with_enough_threads_or_of_unknown_networks_stay_whole(tmp_path: Path) -> None:
    """On a machine of many cores nothing is divided, nor what may be no embedding; and a file decides for itself."""
    version = _telling(tmp_path / "known")
    assert BatchLimits() == Batching(True).limits_for(version, 64 // ROWS_PER_THREAD)
    assert BatchLimits() == Batching(True).limits_for(_telling(tmp_path / "unknown", "{}"), 1)
    by_file = Batching(True, parse_parameters("max_batch_size { value: 9 }")).limits_for(version, 1)
    assert by_file is not None
    assert not by_file.splits
