"""Metrics: the text that Prometheus reads, and what is counted."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelserver.batching.limits import Batching, BatchLimits
from modelserver.batching.scheduler import Scheduler
from modelserver.batching.version import Version
from modelserver.errors import NotFound
from modelserver.metrics import Counter, Histogram, Metrics, exponential
from modelserver.models.loading import Loader
from tests.unit.modelserver.stand_ins import DoublingModel, FolderEngine


def test_a_histogram_is_cumulative_and_has_sum_and_count() -> None:
    """As the real server writes it: no HELP, labels before ``le``."""
    histogram = Histogram(":a:b", exponential(10, 2, 3), "model")
    for value in (10, 15, 1000):
        histogram.add(value, 'm"1')

    assert [
        "# TYPE :a:b histogram",
        r':a:b_bucket{model="m\"1",le="10"} 1',
        r':a:b_bucket{model="m\"1",le="20"} 2',
        r':a:b_bucket{model="m\"1",le="40"} 2',
        r':a:b_bucket{model="m\"1",le="+Inf"} 3',
        r':a:b_sum{model="m\"1"} 1025',
        r':a:b_count{model="m\"1"} 3',
    ] == list(histogram.lines())


def test_a_metric_is_not_there_before_its_first_use() -> None:
    """Alerts on absence would otherwise behave differently here."""
    assert [] == [*Counter("a").lines(), *Histogram("b", [1.0]).lines()]
    assert not list(text_string_to_metric_families(Metrics().page()))


def test_6_calls_are_counted_by_how_they_ended() -> None:
    """Latency of successes alone; the buckets are 10*1.8^k microseconds."""
    metrics = Metrics()
    with metrics.call("m", "Predict"):
        pass
    with pytest.raises(NotFound), metrics.call("m", "Predict"):
        raise NotFound("no")
    with pytest.raises(ZeroDivisionError), metrics.call("m", "Predict"):
        raise ZeroDivisionError
    with pytest.raises(asyncio.CancelledError), metrics.call("m", "Predict"):
        raise asyncio.CancelledError

    page = metrics.page()

    for status in ("OK", "NOT_FOUND", "INTERNAL", "CANCELLED"):
        assert f':tensorflow:serving:request_count{{model_name="m",status="{status}"}} 1\n' in page
    labels = 'model_name="m",API="Predict",entrypoint="GRPC"'
    assert f":tensorflow:serving:request_latency_count{{{labels}}} 1\n" in page
    assert f'request_latency_bucket{{{labels},le="10"}} ' in page
    assert f'request_latency_bucket{{{labels},le="18"}} ' in page
    assert 34 == page.count("request_latency_bucket")


async def test_6_batches_are_counted_with_their_padding() -> None:
    """Fill is processed less padding; queueing is timed per request, its label empty."""
    metrics = Metrics()
    version = Version("m", 1, DoublingModel(), BatchLimits(4, allowed_sizes=(4,)))
    with ThreadPoolExecutor(1) as threads:
        await Scheduler(threads, 1, metrics).run(version, {"x": np.ones(3)}, ["y"])

    page = metrics.page()

    prefix = ":tensorflow:serving:batching_session:"
    assert f"{prefix}input_batch_size_sum{{}} 3\n" in page
    assert f"{prefix}processed_batch_size_sum{{}} 4\n" in page
    assert f'{prefix}padding_size_sum{{execution_batch_size="4"}} 1\n' in page
    assert f"{prefix}wrapped_run_count{{}} 1\n" in page
    assert f'{prefix}queuing_latency_count{{thread_pool_name=""}} 1\n' in page


def test_6_loads_are_counted_with_their_warm_up(tmp_path: Path) -> None:
    """By the version's directory: a load that fails has no latency, one without records no warm-up."""
    metrics = Metrics()
    batching = Batching()
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    (tmp_path / "2" / "broken").touch()
    loader = Loader([FolderEngine()], lambda *_: 3, batching, metrics)

    loader.load(tmp_path / "1")
    with pytest.raises(NotFound):
        loader.load(tmp_path / "2")

    page = metrics.page()
    saved_model, one, two = ":tensorflow:cc:saved_model:", tmp_path / "1", tmp_path / "2"
    assert f'{saved_model}load_attempt_count{{model_path="{one}",status="success"}} 1\n' in page
    assert f'{saved_model}load_attempt_count{{model_path="{two}",status="fail"}} 1\n' in page
    assert [str(one)] == re.findall(rf'{saved_model}load_latency{{model_path="(.*)"}}', page)
    assert [str(one)] == re.findall(r'model_warmup_latency_count{model_path="(.*)",status="OK"} 1', page)


async def test_6_without_batching_no_batch_is_counted() -> None:
    """The series do not exist, as there."""
    metrics = Metrics()
    with ThreadPoolExecutor(1) as threads:
        await Scheduler(threads, 1, metrics).run(Version("m", 1, DoublingModel()), {"x": np.ones(3)}, ["y"])

    assert "batching_session" not in metrics.page()
