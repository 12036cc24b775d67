"""The simulator, where arithmetic knows the answer; and what the page says of the manifests."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.capacity import simulation, tables
from bench.capacity.__main__ import PAGE, check, main
from bench.capacity.costs import ASSUMED_RATES, Costs, Survey, gpu_rates, inferences, redis_bytes, traffic
from bench.capacity.events import Outcome, events, outcomes, planned_rate
from bench.capacity.limits import (
    GATEWAY_CONNECTIONS,
    Node,
    Part,
    breaks_at,
    first,
    full_at,
    grown_parts,
    plan,
    shipped_parts,
)
from bench.capacity.shipped import KUBERNETES, Shipped, Workload, quantity, surviving
from bench.capacity.simulation import Cluster, Simulation
from service.cache.redis import client
from service.core.admission import HitRatio
from service.core.embedder import Limits
from service.model_server import batcher

COSTS = Costs(hit=0.001, redis=0.0001, miss=0.004, inference=0.006, decode=0.003, redis_miss=0.0004, gpu=0.001)
SURVEY = Survey(14_000.0, 5_500.0, 6_500.0, 300.0, 100.0, 0.001, 0.0, 0.001)
GATEWAY = Workload(replicas=3, most=12, requested=1.0, limit=2.0, memory=1.5e9, lasting=3)
SERVER = Workload(replicas=2, most=8, requested=4.0, limit=float("inf"), memory=8e9, lasting=2)
SHIPPED = Shipped(
    gateway=GATEWAY,
    server=SERVER,
    gpu_server=replace(SERVER, lasting=1),
    redis=Workload(replicas=1, most=1, requested=0.2, limit=float("inf"), memory=1.5e9, lasting=0),
    utilization=0.7,
    workers=1,
    slots=2,
    batch=32,
    in_flight=256,
    body_bytes=1 << 28,
    server_threads=4,
    batch_threads=4,
    calls=256,
    redis_bytes=2.0**30,
    ttl=604_800.0,
)


def test_a_saturated_machine_does_what_its_cores_can_do() -> None:
    """Two cores at 10.4 ms an image, of all that share them, whatever batches form."""
    got = Simulation(Cluster(1, 2, 1, 2, COSTS.inference, shared=True), COSTS).saturated(32, 5.0)
    assert got.rate == pytest.approx(2 / (COSTS.miss + COSTS.inference + COSTS.redis_miss), rel=0.03)


def test_hits_use_one_core_of_a_gateway_however_many_it_has() -> None:
    """They are work of its event loop: more gateways answer more, more cores do not."""
    one, two = (Simulation(Cluster(gateways, 4, 1, 1, 0.0), COSTS, 1.0).saturated(16, 1.0) for gateways in (1, 2))
    assert one.rate == pytest.approx(1 / COSTS.hit, rel=0.02)
    assert two.rate == pytest.approx(2 / COSTS.hit, rel=0.05)
    assert one.gateway_use == pytest.approx(1.0, rel=0.02)


def test_below_capacity_what_is_offered_is_answered() -> None:
    """The busy part is the work over the cores, or the event loop's work, which is more here."""
    got = Simulation(Cluster(1, 4, 1, 1, COSTS.gpu), COSTS, 0.5).offered(400, 5.0)
    assert got.rate == pytest.approx(400, rel=0.08)
    assert got.gateway_use == pytest.approx(400 * COSTS.loop(0.5), rel=0.08)
    assert got.server_use == pytest.approx(200 * COSTS.gpu, rel=0.1)
    assert not got.refused


def test_a_queue_without_batches_waits_as_erlang_says() -> None:
    """One server, random arrivals, equal work: at half load half of the images wait less than half of the work.

    https://en.wikipedia.org/wiki/M/D/1_queue
    """
    got = Simulation(Cluster(1, 1, 1, 1, 0.0), COSTS, 1.0).offered(500, 8.0)
    assert 0.001 <= got.p50 < 0.0015
    assert got.gateway_use == pytest.approx(0.5, rel=0.05)


def test_beyond_capacity_the_rest_is_refused_by_the_gateways_own_bounds() -> None:
    """Offered twice what can be decoded, half is answered, and none waits beyond what is in flight."""
    got = Simulation(Cluster(1, 1, 1, 1, COSTS.gpu, in_flight=20), COSTS).offered(500, 4.0)
    assert got.rate < 270
    assert got.rate + got.refused == pytest.approx(500, rel=0.1)
    assert got.p99 < 2 * 20 * COSTS.miss


def test_a_cache_that_fills_answers_more_than_one_that_is_cold() -> None:
    """Images drawn by popularity come again; one that is being computed is waited for, and computed once."""
    machine = Cluster(1, 2, 1, 2, COSTS.inference, shared=True)
    filling, cold = (Simulation(machine, COSTS, population=size).saturated(8, 2.0) for size in (20, 10**4))
    assert filling.rate > 2 * cold.rate
    assert filling.server_use == pytest.approx(20 * COSTS.inference / 2 / 2, rel=0.05)


def test_bounds_are_those_of_the_gateway() -> None:
    """They are constants there, and copied."""
    theirs = (
        client._MOST_CONNECTIONS,
        batcher._ENOUGH,
        HitRatio._WORTH,
        Limits.__dataclass_fields__["longest_wait"].default,
    )
    assert theirs == (GATEWAY_CONNECTIONS, simulation._ENOUGH, simulation._WORTH, simulation._WAIT)


def result(**changed: float) -> dict[str, Any]:
    """A result that says what arithmetic does, but for the rates given."""
    hits, miss = {"gateway CPU ms": 1.0, "Valkey CPU ms": 0.01}, {"gateway CPU ms": 4.0, "ideal decode CPU ms": 3.0}
    rows: dict[str, dict[str, float]] = {
        "P1": {**hits, "images/s": changed.get("P1", 1000.0)},
        "P2": {**hits, "requests/s": changed.get("P2", 1000.0)},
        "P4 mobilenet_v2": {**miss, "model server CPU ms": 6.0, "images/s": changed.get("P4", 200.0)},
        "P9": {"model server CPU ms": 30.0, "model server CPU ms, float32": 50.0},
        "P9 OpenVINO": {"model server CPU ms, bfloat16": 10.0},
    }
    about = {"cores": 2, "processor": "x", "commit": "c", "photo_bytes": 4e4, "foreign": changed.get("foreign", 0.0)}
    written = [{"key": key, "facts": {name: [value] for name, value in row.items()}} for key, row in rows.items()]
    return {"about": {**about, "effort": {"seconds": 3.0}}, "comparisons": written}


def test_the_check_holds_within_15_percent_and_fails_beyond(capsys: pytest.CaptureFixture[str]) -> None:
    """A rate that the costs do not explain is an exit code; a busy machine is no check."""
    assert 0 == check(result(P2=950.0))
    assert 1 == check(result(P2=600.0))
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "**no**" in line]
    assert told.startswith("| hits in Redis (P2) |")
    assert told.endswith("| **no** |")
    assert 1 == check(result(P4=260.0))
    assert 2 == check(result(foreign=0.3))
    assert "No check: others used 30%" in capsys.readouterr().out


def test_the_check_is_a_command(tmp_path: Path) -> None:
    """It reads a result and writes nothing."""
    path, before = tmp_path / "result.json", PAGE.read_bytes()
    path.write_text(json.dumps(result(P4=100.0)))
    assert 1 == main(["--check", str(path)])
    assert before == PAGE.read_bytes()


def test_costs_are_medians_of_a_result_and_a_result_without_them_is_refused() -> None:
    """In seconds, of older and newer results; what is missing is named."""
    measured = Costs.measured(result())
    assert [0.001, 0.00001, 0.004, 0.003, 0.006, 0.00005] == pytest.approx(
        [measured.hit, measured.redis, measured.miss, measured.decode, measured.inference, measured.redis_miss]
    )
    known = [(each.model, each.precision, each.engine, each.milliseconds) for each in inferences(result())]
    assert ("ResNet50", "bfloat16", "TensorFlow", 30.0) in known
    assert ("ResNet50", "float32", "TensorFlow", 50.0) in known
    assert ("ResNet50", "bfloat16", "OpenVINO", 10.0) in known
    other = {**result(), "about": {**result()["about"], "commit": "older"}}
    assert "| ResNet50 | bfloat16 | OpenVINO | 10.0 | 2.78 | x, c |" in tables.models([result(), other])
    lacking = {**result(), "comparisons": result()["comparisons"][:2]}
    with pytest.raises(SystemExit, match="none of P4 mobilenet_v2"):
        Costs.measured(lacking)


def test_a_measured_gpu_replaces_the_assumptions(tmp_path: Path) -> None:
    """At its best batch size; a record of something else is refused."""
    record = tmp_path / "gpu.json"
    assert sorted(ASSUMED_RATES) == sorted(gpu_rates(record).values())
    record.write_text(json.dumps({"gpu": {"name": "NVIDIA L4"}, "model": "lite0", "images/s": {"1": 90, "32": 900.5}}))
    assert {"NVIDIA L4, lite0: 900/s": 900.5} == gpu_rates(record)
    table = tables.million(COSTS, SURVEY, gpu_rates(record))
    assert "| GPU-hours instead (NVIDIA L4, lite0: 900/s) |" in table
    record.write_text(json.dumps({"gpu": None, "images/s": {"1": 90}}))
    with pytest.raises(SystemExit, match="Expected the record of deploy/gpu/accept"):
        gpu_rates(record)


def test_a_million_images_cost_what_each_costs() -> None:
    """Hours of cores, bytes over each way; a hit sends no pixels. Prices are the user's."""
    assert {"gateways": 1.111, "model servers": 1.667, "Redis": 0.1111} == pytest.approx(
        tables.core_hours(COSTS, 0.0), rel=1e-3
    )
    assert [42_000 + 14_000, 3 * 224 * 224 + 4 * 1280, 6_500] == list(traffic(COSTS, SURVEY, 0.0).values())
    assert 0 == traffic(COSTS, SURVEY, 1.0)["gateways and model servers"]
    assert 4 * 1280 + 225 == redis_bytes(1, 1280)
    printed = tables.prices(COSTS, SURVEY, {"one": 100.0}, {"core": 2.0, "gpu": 1.0, "redis": 0.0, "network": 0.0})
    assert "| 0% | 5.78 | 5.22 |" in printed


def test_the_loss_of_a_zone_takes_pods_of_every_part() -> None:
    """Spread evenly over three, the fullest zone goes; one pod of one is gone."""
    assert {1: 0, 2: 1, 3: 2, 4: 2, 12: 8} == {count: surviving(count) for count in (1, 2, 3, 4, 12)}


def named(seen: Sequence[Outcome], begin: str) -> Outcome:
    """The event whose name begins so."""
    return next(each for each in seen if each.event.name.startswith(begin))


def test_the_cluster_that_has_lost_a_zone_is_the_one_that_is_simulated() -> None:
    """At 70 % of three gateways two have 5 % too much to do: they are full, and do not answer all."""
    rate = planned_rate(COSTS, SHIPPED, gpu=False)
    assert rate == pytest.approx(0.7 * 3 / (0.9 * 0.001 + 0.1 * 0.001), rel=0.01)
    seen = outcomes(COSTS, SHIPPED, images=3000)
    planned, lost = named(seen, "as planned").seen, named(seen, "one of three zones lost").seen
    assert planned
    assert lost
    assert planned.gateway_use == pytest.approx(0.7, rel=0.05)
    assert lost.gateway_use > 0.97
    assert lost.server_use == pytest.approx(2 * planned.server_use, rel=0.15)
    assert lost.p50 > 3 * planned.p50
    cold = named(seen, "cache cold").seen
    assert cold
    assert cold.refused > 0.2 * rate


def test_where_a_zone_was_all_there_is_nothing_answers() -> None:
    """No cluster of a size that cannot be is simulated in its place."""
    small = replace(SHIPPED, gateway=replace(GATEWAY, replicas=1))
    (lost,) = [each for each in events(small, gpu=False) if each.name == "one of three zones lost"]
    assert (0, 1) == (lost.gateways, lost.servers)
    table = tables.event_rows([Outcome(lost, None)], 100.0)
    assert "| one of three zones lost | 0 and 1 | 90% | 0 | 100 (503) |" in table


def test_a_rolling_deploy_has_what_its_strategy_leaves() -> None:
    """A GPU's old server ends before the new one starts."""
    on_gpus, on_cpus = (
        next(each for each in events(SHIPPED, gpu=gpu) if "of model servers" in each.name) for gpu in (True, False)
    )
    assert (1, 2) == (on_gpus.servers, on_cpus.servers)


def test_parts_compare_by_the_fraction_that_is_used_and_ties_are_named() -> None:
    """100 of 1,000 is less than one of two; those within a hundredth are full together."""
    parts = [Part("gateways", 0.500), Part("GPUs", 0.1), Part("Redis", 0.498)]
    assert ["gateways", "Redis"] == [part.name for part in first(parts)]


def test_the_first_shipped_limit_is_where_its_work_equals_its_cores() -> None:
    """Misses: 2 servers of 4 cores at 6 ms; hits: 12 event loops at 1 ms, which no decode thread helps."""
    rate, broken = breaks_at(lambda rate: shipped_parts(COSTS, SHIPPED, 0.0, rate))
    assert ["model servers: cores"] == [part.name for part in broken]
    assert rate == pytest.approx(8 / 0.006, rel=0.01)
    rate, broken = breaks_at(lambda rate: shipped_parts(COSTS, SHIPPED, 1.0, rate, scaled=True))
    # 12 gateways make 12,000/s, Redis at 0.1 ms only 10,000.
    assert ["Redis: its core"] == [part.name for part in broken]
    assert rate == pytest.approx(10_000, rel=0.01)
    assert float("inf") == full_at(lambda rate: shipped_parts(COSTS, SHIPPED, 1.0, rate), "model servers: cores")


def test_a_cluster_on_paper_breaks_by_what_grows_with_its_square() -> None:
    """Each gateway watches each model server, and all gateways connect to each Redis; the part is of what is spare."""
    size = plan(COSTS, SHIPPED, 0.0, 69_999)
    assert (200, 100, 40) == (size.gateways, size.gpus, size.shards)
    parts = {part.name: part for part in grown_parts(COSTS, SHIPPED, SURVEY, Node(), 0.0, 69_999)}
    watching = parts["each gateway: watching and choosing among model servers"]
    assert watching.use == pytest.approx(100 * SURVEY.gateway_watch / 0.3)
    assert parts["each Redis: connections"].use == pytest.approx(200 * 8 / 10_000)
    assert parts["autoscaling: most gateways"].use == pytest.approx(200 / 12)
    assert 0 == plan(COSTS, SHIPPED, 1.0, 70_000).gpus


@pytest.mark.parametrize(
    ("text", "value"), [("200m", 0.2), (2, 2.0), ("1536Mi", 1536 * 2**20), ("1gb", 2**30), ("0.5", 0.5)]
)
def test_quantities_are_those_of_kubernetes_and_redis(text: object, value: float) -> None:
    """Others are refused, not taken for numbers."""
    assert value == pytest.approx(quantity(text))
    with pytest.raises(SystemExit, match="Received '3 apples'"):
        quantity("3 apples")


def test_limits_are_read_from_the_manifests(tmp_path: Path) -> None:
    """A changed manifest is a changed limit; one that has gone is named."""
    copy = shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    before = Shipped.read(copy)
    assert before == Shipped.read()
    changes = {
        "base/gateway.yaml": (f"replicas: {before.gateway.replicas}", "replicas: 7"),
        "components/autoscaling/gateway.yaml": (f"maxReplicas: {before.gateway.most}", "maxReplicas: 99"),
        "base/redis.yaml": ("--maxmemory, 1gb", "--maxmemory, 3gb"),
        "base/gateway.env": ("MICROTOME_DRAIN=20", "MICROTOME_DRAIN=20\nMICROTOME_INFERENCE_SLOTS=5"),
    }
    for name, (old, new) in changes.items():
        text = (copy / name).read_text()
        assert old in text, name
        (copy / name).write_text(text.replace(old, new))
    after = Shipped.read(copy)
    assert (7, 99, 5, 3 * 2**30) == (after.gateway.replicas, after.gateway.most, after.slots, after.redis_bytes)
    (copy / "base" / "redis.yaml").unlink()
    with pytest.raises(SystemExit, match="Expected one Deployment 'redis'"):
        Shipped.read(copy)


def test_the_page_shows_what_the_manifests_ship() -> None:
    """After a change there: `python -m bench.capacity`."""
    page, shipped = PAGE.read_text(), Shipped.read()
    assert tables.shipped_values(shipped) in page
    assert tables.survival(shipped) in page
