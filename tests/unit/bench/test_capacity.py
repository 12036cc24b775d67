"""The simulator, where arithmetic knows the answer."""

import json
from pathlib import Path

import pytest

from bench.capacity.__main__ import clusters, needed
from bench.capacity.costs import ASSUMED_RATES, Costs, gpu_rates, redis_bytes
from bench.capacity.simulation import Cluster, Simulation

COSTS = Costs(hit=0.001, redis=0.0001, miss=0.004, inference=0.006, gpu=0.001)


def test_a_saturated_machine_does_what_its_cores_can_do() -> None:
    """Two cores at 10 ms an image make 200 images/s, whatever batches form."""
    got = Simulation(Cluster(2, 2, COSTS.inference, shared=True), COSTS, 0.0).saturated(32, 30.0)
    assert got.rate == pytest.approx(200, rel=0.03)


def test_below_capacity_what_is_offered_is_answered() -> None:
    """And the busy part of the cores is the work over the cores."""
    got = Simulation(Cluster(4, 1, COSTS.gpu), COSTS, 0.5).offered(400, 60.0)
    assert got.rate == pytest.approx(400, rel=0.05)
    assert got.gateway_use == pytest.approx(400 * 0.0025 / 4, rel=0.05)


def test_a_queue_without_batches_waits_as_erlang_says() -> None:
    """One server, random arrivals, equal work: at half load half of the images wait less than half of the work.

    https://en.wikipedia.org/wiki/M/D/1_queue
    """
    got = Simulation(Cluster(1, 1, 0.0), COSTS, 1.0).offered(500, 200.0)
    assert 0.001 <= got.p50 < 0.0015
    assert got.gateway_use == pytest.approx(0.5, rel=0.03)


def test_beyond_capacity_latency_grows_and_the_rate_does_not() -> None:
    """Offered twice what the gateways can do, half is answered."""
    got = Simulation(Cluster(1, 1, COSTS.gpu), COSTS, 0.0).offered(500, 20.0)
    assert got.rate < 260
    assert got.p99 > 1.0


def test_the_number_of_machines_grows_with_misses() -> None:
    """A hit needs no GPU; everything leaves headroom."""
    assert (2, 0, 1) == needed(COSTS, 1000, 1.0)
    assert (6, 2, 1) == needed(COSTS, 1000, 0.0)


def test_a_vector_takes_its_numbers_and_an_entry() -> None:
    """Halving the numbers does not halve the memory."""
    assert 4 * 1280 + 225 == redis_bytes(1, 1280, 4)
    assert redis_bytes(10, 1280, 2) > redis_bytes(10, 1280, 4) / 2


def test_costs_are_medians_of_a_result_and_a_result_without_them_is_refused(tmp_path: Path) -> None:
    """In seconds; what is missing is named."""
    hits = {"key": "P2", "facts": {"gateway CPU ms": [0.2, 0.4, 0.3], "Valkey CPU ms": [0.01]}}
    misses = {"key": "P4 mobilenet_v2", "facts": {"gateway CPU ms": [5.0], "model server CPU ms": [15.0]}}
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"comparisons": [hits, misses]}))
    measured = Costs.measured(path)
    assert [0.0003, 0.00001, 0.005, 0.015] == pytest.approx(
        [measured.hit, measured.redis, measured.miss, measured.inference]
    )
    path.write_text(json.dumps({"comparisons": [hits]}))
    with pytest.raises(SystemExit, match="none of P4 mobilenet_v2"):
        Costs.measured(path)


def test_a_measured_gpu_replaces_the_assumptions(tmp_path: Path) -> None:
    """At its best batch size; a record of something else is refused."""
    record = tmp_path / "gpu.json"
    assert sorted(ASSUMED_RATES) == sorted(gpu_rates(record).values())
    record.write_text(json.dumps({"gpu": {"name": "NVIDIA L4"}, "model": "lite0", "images/s": {"1": 90, "32": 900.5}}))
    assert {"NVIDIA L4, lite0: 900/s": 900.5} == gpu_rates(record)
    table = clusters(COSTS, gpu_rates(record))
    assert "| GPUs (NVIDIA L4, lite0: 900/s) |" in table
    record.write_text(json.dumps({"gpu": None, "images/s": {"1": 90}}))
    with pytest.raises(SystemExit, match="Expected the record of deploy/gpu/accept"):
        gpu_rates(record)
