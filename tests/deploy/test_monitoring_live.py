"""What rules and dashboard ask for is what running processes say, under load and in trouble."""

import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.promql import Expression, expressions, grouped, selectors, selects
from tests.e2e.photos import example, unseen
from tests.e2e.processes import Gateway, ModelServer, Valkey, eventually, free_port
from tests.exported_models import REPOSITORY

Series = Mapping[str, Sequence[Mapping[str, str]]]
"""Label sets by the name of the sample."""

JOB = {"job": "microtome-gateway", "instance": "gateway:8000"}
"""What Prometheus adds to what it scrapes."""

DISCOVERED = {"namespace", *JOB}
"""Labels that come from where a process was found, as in compose or in a cluster."""

KEY = "a key of this test"
KEYS = f"tests sha256:{hashlib.sha256(KEY.encode()).hexdigest()}"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}

TENSORFLOW = ":tensorflow:"
"""What the names of a model server's metrics begin with."""

TF_SERVING: Mapping[str, set[str]] = {
    ":tensorflow:serving:request_count": {"model_name", "status"},
    ":tensorflow:serving:request_latency_bucket": {"model_name", "API", "entrypoint", "le"},
    ":tensorflow:serving:runtime_latency_bucket": {"model_name", "API", "runtime", "le"},
    ":tensorflow:serving:batching_session:queuing_latency_bucket": {"thread_pool_name", "le"},
    ":tensorflow:serving:batching_session:processed_batch_size_sum": set(),
    ":tensorflow:serving:batching_session:processed_batch_size_count": set(),
    ":tensorflow:serving:batching_session:padding_size_sum": {"execution_batch_size"},
    ":tensorflow:serving:model_warmup_latency_sum": {"model_path", "status"},
    ":tensorflow:serving:model_warmup_latency_count": {"model_path", "status"},
    ":tensorflow:cc:saved_model:load_attempt_count": {"model_path", "status"},
    ":tensorflow:cc:saved_model:load_latency": {"model_path"},
}
"""Names and labels of TensorFlow Serving 2.20, from its sources (util/prometheus_exporter.cc, servables/tensorflow/
util.cc, core batching_session.cc; TensorFlow's cc/saved_model/loader.cc): the real server cannot run here, ours can."""


OTHERS = {
    # Needs a GPU: as dcgm-exporter has it in Kubernetes (default-counters.csv, and labels of the pod).
    **dict.fromkeys(
        (
            "DCGM_FI_DEV_XID_ERRORS",
            "DCGM_FI_DEV_ROW_REMAP_FAILURE",
            "DCGM_FI_DEV_GPU_TEMP",
            "DCGM_FI_DEV_GPU_UTIL",
            "DCGM_FI_DEV_FB_USED",
            "DCGM_FI_DEV_FB_FREE",
        ),
        dict.fromkeys(("gpu", "UUID", "namespace", "pod"), "x") | {"container": "model-server"},
    ),
    # As redis_exporter has it, under the job that the rules name.
    **{
        name: {"job": "microtome-redis", "instance": "redis-exporter:9121"}
        for name in (
            "redis_up",
            "redis_memory_used_bytes",
            "redis_memory_max_bytes",
            "redis_evicted_keys_total",
            "redis_commands_processed_total",
            "redis_connected_clients",
            "redis_rejected_connections_total",
        )
    },
}
"""Series of exporters that do not run here, by name."""


class MeasuredModelServer(ModelServer):
    """The embedded model server with metrics, configured as in the manifests."""

    def __init__(self, directory: Path, models: Path) -> None:
        super().__init__(directory, models)
        self.rest = free_port()

    def words(self) -> list[str]:
        """With the port that metrics are at."""
        files = REPOSITORY / "deploy" / "tfserving"
        measured = [f"--rest_api_port={self.rest}", f"--monitoring_config_file={files / 'monitoring.config'}"]
        return [*super().words(), *measured, f"--batching_parameters_file={files / 'batching.config'}"]


@pytest.fixture(scope="module")
def exposed(lite0_models: Path) -> Iterator[Series]:
    """What processes say after hits, misses, mistakes, a bad version, a crowd, and the death of the model server."""
    with tempfile.TemporaryDirectory(prefix="microtome-mon-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        models = Path(shutil.copytree(lite0_models, directory / "models", copy_function=os.link))
        valkey, model_server = Valkey(directory), MeasuredModelServer(directory, models)
        # Seconds: a busy machine is no Redis that fails.
        cached: dict[str, Any] = {"redis_url": valkey.url, "cache_budget": 5}
        gateway = Gateway(directory, model_server.address, max_images_in_flight=1, **cached)
        (directory / "second").mkdir()
        second = Gateway(directory / "second", model_server.address, api_keys=KEYS, **cached)
        processes = (valkey, model_server, gateway, second)
        try:
            for process in processes:
                process.start()
            served = trouble(gateway, second, model_server)
            yield {**scrape(gateway, second), **served}
        finally:
            for process in processes:
                process.destroy()


def trouble(gateway: Gateway, second: Gateway, model_server: MeasuredModelServer) -> Series:
    """Make all of them count everything that is asked for; return what the model server said last."""
    photo = example("cat")
    with gateway.client() as client, ThreadPoolExecutor(2) as others:
        assert [200, 200, 200] == [client.post("/embed", content=photo).status_code for _ in range(3)]
        assert 422 == client.post("/embed", content=b"no image").status_code
        broken = model_server.models / "lite0" / "2"
        broken.mkdir()
        (broken / "saved_model.pb").write_bytes(b"no model")
        eventually(lambda: 'status="fail"' in metrics(model_server), "a version could not be loaded")
        served = parsed(metrics(model_server), {"job": "microtome-model-server", "instance": "model-server:8501"})
        # A model server that is frozen holds the one image that may be in flight for as long as it takes.
        model_server.send(signal.SIGSTOP)
        held = others.submit(client.post, "/embed", content=unseen(photo))
        eventually(lambda: in_flight(gateway) == 1, "an image is in flight")
        with gateway.client() as another:
            assert 429 == another.post("/embed", content=unseen(photo)).status_code
        model_server.send(signal.SIGCONT)
        assert 200 == held.result(60).status_code
        with second.client() as beside:
            beside.headers.update(AUTHORIZED)

            def shared() -> bool:
                wanted = unseen(photo)
                both = [others.submit(each.post, "/embed", content=wanted) for each in (client, beside)]
                assert [200, 200] == [answer.result(60).status_code for answer in both]
                return 'stage="elsewhere"' in told(gateway) + told(second)

            eventually(shared, "one gateway has waited for the other")
        model_server.kill()
        assert 503 == client.post("/embed", content=unseen(photo)).status_code
    return served


def metrics(model_server: MeasuredModelServer) -> str:
    """What Prometheus would get from it."""
    return httpx.get(f"http://127.0.0.1:{model_server.rest}/monitoring/prometheus/metrics", trust_env=False).text


def told(gateway: Gateway) -> str:
    """What Prometheus would get from it."""
    return httpx.get(f"{gateway.url}/metrics", headers=AUTHORIZED, trust_env=False).raise_for_status().text


def in_flight(gateway: Gateway) -> float:
    """The gauge that the saturation alert reads."""
    families = {family.name: family for family in text_string_to_metric_families(told(gateway))}
    return families["microtome_images_in_flight"].samples[0].value


def scrape(*gateways: Gateway) -> Series:
    """Scrape as Prometheus does, which adds `up` and where it was found."""
    found: dict[str, list[Mapping[str, str]]] = {
        "up": [JOB, {**JOB, "job": "microtome-model-server"}],
        **{name: [labels] for name, labels in OTHERS.items()},
    }
    for gateway in gateways:
        for name, series in parsed(told(gateway), JOB).items():
            found.setdefault(name, []).extend(series)
    return found


def parsed(text: str, job: Mapping[str, str]) -> Series:
    """Read what a process exposes, and add the labels of its job."""
    found: dict[str, list[Mapping[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # The parser adds what a counter's name should end with, and TensorFlow's do not.
            name = sample.name.removesuffix("_total") if sample.name.startswith(TENSORFLOW) else sample.name
            found.setdefault(name, []).append({**sample.labels, **job})
    return found


@pytest.mark.parametrize("expression", expressions(), ids=lambda expression: expression.place)
def test_every_series_asked_for_is_really_there(expression: Expression, exposed: Series) -> None:
    """Each selector, its label values included, finds at least one series after what the processes went through."""
    for selector in selectors(expression.text):
        name = str(selector.name)
        if name.startswith(TENSORFLOW):
            asked = {matcher.name for matcher in selector.matchers.matchers}
            assert name in TF_SERVING, f"{expression.place}: TensorFlow Serving has no {name}"
            assert asked <= TF_SERVING[name] | DISCOVERED
        if not name.startswith("microtome:") and name != "ALERTS":
            found = [labels for labels in exposed.get(name, []) if selects(selector, labels)]
            assert found, f"{expression.place}: nothing is {selector.prettify()}, only {exposed.get(name)}"


@pytest.mark.parametrize("expression", expressions(), ids=lambda expression: expression.place)
def test_results_are_grouped_by_labels_that_exist(expression: Expression, exposed: Series) -> None:
    """A `by` that names a label which no series has would lump everything together, in silence."""
    for labels, below in grouped(expression.text):
        for selector in below:
            name = str(selector.name)
            if not name.startswith("microtome:"):
                known = TF_SERVING[name] if name in TF_SERVING else {label for one in exposed[name] for label in one}
                assert labels <= known | DISCOVERED, f"{expression.place}: {name} has only {sorted(known)}"
