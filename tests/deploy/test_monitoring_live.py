"""What rules and dashboard ask for is what running processes say, under load and in trouble."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.promql import Expression, expressions, grouped, selectors, selects
from tests.e2e.photos import example, unseen
from tests.e2e.processes import Gateway, ModelServer, Valkey, eventually

Series = Mapping[str, Sequence[Mapping[str, str]]]
"""Label sets by the name of the sample."""

JOB = {"job": "microtome-gateway", "instance": "gateway:8000"}
"""What Prometheus adds to what it scrapes."""

DISCOVERED = {"namespace", *JOB}
"""Labels that come from where a process was found, as in compose or in a cluster."""

TF_SERVING: Mapping[str, set[str]] = {
    ":tensorflow:serving:request_count": {"model_name", "status"},
    ":tensorflow:serving:request_latency_bucket": {"model_name", "API", "entrypoint", "le"},
    ":tensorflow:serving:runtime_latency_bucket": {"model_name", "API", "runtime", "le"},
    ":tensorflow:serving:batching_session:queuing_latency_bucket": {"thread_pool_name", "le"},
    ":tensorflow:serving:batching_session:processed_batch_size_sum": set(),
    ":tensorflow:serving:batching_session:processed_batch_size_count": set(),
}
"""Names and labels of TensorFlow Serving 2.20, from its sources (util/prometheus_exporter.cc, servables/tensorflow/
util.cc, core batching_session.cc): the real server cannot run here."""


@pytest.fixture(scope="module")
def exposed(lite0_models: Path) -> Iterator[Series]:
    """What a gateway says after hits, misses, a caller's mistake, a crowd, and the death of its model server."""
    with tempfile.TemporaryDirectory(prefix="microtome-mon-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        models = Path(shutil.copytree(lite0_models, directory / "models", copy_function=os.link))
        valkey, model_server = Valkey(directory), ModelServer(directory, models)
        gateway = Gateway(directory, model_server.address, redis_url=valkey.url, max_images_in_flight=1)
        processes = (valkey, model_server, gateway)
        try:
            for process in processes:
                process.start()
            trouble(gateway, model_server)
            yield scrape(gateway)
        finally:
            for process in processes:
                process.destroy()


def trouble(gateway: Gateway, model_server: ModelServer) -> None:
    """Make the gateway count everything that alerts ask for."""
    photo = example("cat")
    with gateway.client() as client, ThreadPoolExecutor(1) as others:
        assert [200, 200, 200] == [client.post("/embed", content=photo).status_code for _ in range(3)]
        assert 422 == client.post("/embed", content=b"no image").status_code
        # A model server that is frozen holds the one image that may be in flight for as long as it takes.
        model_server.send(signal.SIGSTOP)
        held = others.submit(client.post, "/embed", content=unseen(photo))
        eventually(lambda: in_flight(gateway) == 1, "an image is in flight")
        with gateway.client() as another:
            assert 429 == another.post("/embed", content=unseen(photo)).status_code
        model_server.send(signal.SIGCONT)
        assert 200 == held.result(60).status_code
        model_server.kill()
        assert 503 == client.post("/embed", content=unseen(photo)).status_code


def in_flight(gateway: Gateway) -> float:
    """The gauge that the saturation alert reads."""
    text = httpx.get(f"{gateway.url}/metrics", trust_env=False).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return families["microtome_images_in_flight"].samples[0].value


def scrape(gateway: Gateway) -> Series:
    """Scrape as Prometheus does, which adds `up` and where it was found."""
    text = httpx.get(f"{gateway.url}/metrics", trust_env=False).text
    found: dict[str, list[Mapping[str, str]]] = {"up": [JOB, {**JOB, "job": "microtome-model-server"}]}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append({**sample.labels, **JOB})
    return found


@pytest.mark.parametrize("expression", expressions(), ids=lambda expression: expression.place)
def test_every_series_asked_for_is_really_there(expression: Expression, exposed: Series) -> None:
    """Each selector, its label values included, finds at least one series of the gateway after what it went through."""
    for selector in selectors(expression.text):
        name = str(selector.name)
        if name.startswith(":tensorflow:"):
            asked = {matcher.name for matcher in selector.matchers.matchers}
            assert name in TF_SERVING, f"{expression.place}: TensorFlow Serving has no {name}"
            assert asked <= TF_SERVING[name] | DISCOVERED
        elif not name.startswith("microtome:") and name != "ALERTS":
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
