"""A real Prometheus scrapes a real gateway with the rules of deploy/ and answers the dashboard's questions."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.promql import RULES, RUNBOOKS, Expression, panel_expressions, rules
from tests.deploy.test_monitoring_live import AUTHORIZED, KEYS
from tests.e2e.photos import example, unseen
from tests.e2e.processes import Gateway, ModelServer, Process, eventually, free_port

CONFIG = RULES.parent / "prometheus.yml"
MODEL_SERVERS_OWN = (":tensorflow:", "microtome:model_server_queue_seconds", "DCGM_", "redis_")
"""What only model servers and exporters of others expose, none of which is scraped here."""

SEVERAL = 'stage="elsewhere"'
"""What takes several gateways; see test_monitoring_live."""


class Prometheus(Process):
    """Prometheus with the configuration of deploy/, faster, and with the gateway of this test to scrape."""

    name = "prometheus"

    def __init__(self, directory: Path, operations: int) -> None:
        super().__init__(directory)
        self._directory = directory
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/api/v1"
        config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(RULES / "*.yml")]
        addresses = {"microtome-gateway": f"127.0.0.1:{operations}", "microtome-model-server": "127.0.0.1:9"}
        jobs = [job for job in config["scrape_configs"] if job["job_name"] in addresses]
        for job in jobs:
            del job["dns_sd_configs"]
            job["static_configs"] = [{"targets": [addresses[job["job_name"]]]}]
        (directory / "prometheus.yml").write_text(yaml.safe_dump({**config, "scrape_configs": jobs}))

    def words(self) -> list[str]:
        """The server with its data in the directory."""
        binary = shutil.which("prometheus")
        assert binary is not None
        return [
            binary,
            f"--config.file={self._directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            # As compose has it.
            f"--web.console.templates={RUNBOOKS}",
        ]

    def serving(self) -> bool:
        """Whether it says that it is ready."""
        try:
            return httpx.get(self.url.replace("/api/v1", "/-/ready"), trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def answer(self, expression: str) -> list[dict[str, Any]]:
        """What it answers now, without what is no number."""
        answer = httpx.get(f"{self.url}/query", params={"query": expression}, trust_env=False).json()
        assert answer["status"] == "success", answer
        return [row for row in answer["data"]["result"] if row["value"][1] != "NaN"]

    def rules(self) -> list[dict[str, Any]]:
        """Its rules, with what came of their last evaluation."""
        groups = httpx.get(f"{self.url}/rules", trust_env=False).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def watched(lite0_models: Path) -> Iterator[tuple[Prometheus, Gateway]]:
    """A gateway and a Prometheus that watches it."""
    if shutil.which("prometheus") is None:
        pytest.skip("needs prometheus on PATH; Debian has it in the package prometheus")
    with tempfile.TemporaryDirectory(prefix="microtome-prom-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        models = Path(shutil.copytree(lite0_models, directory / "models", copy_function=os.link))
        model_server = ModelServer(directory, models)
        operations = free_port()
        gateway = Gateway(directory, model_server.address, api_keys=KEYS, operations_port=operations)
        prometheus = Prometheus(directory, operations)
        processes = (model_server, gateway, prometheus)
        try:
            for process in processes:
                process.start()
            yield prometheus, gateway
        finally:
            for process in reversed(processes):
                process.destroy()


def test_every_panel_of_the_gateway_shows_something(watched: tuple[Prometheus, Gateway]) -> None:
    """Under traffic with hits, misses and mistakes each query of the dashboard has an answer that is a number."""
    prometheus, gateway = watched
    photo = example("cat")
    waiting = [e for e in panel_expressions() if not any(own in e.text for own in (*MODEL_SERVERS_OWN, SEVERAL))]
    assert len(waiting) > 25
    with gateway.client() as client, ThreadPoolExecutor(8) as callers:
        client.headers.update(AUTHORIZED)

        def all_shown() -> bool:
            for body in (photo, unseen(photo), b"no image"):
                assert client.post("/embed", content=body).status_code in {200, 422}
            # At once, so that some of them are computed with the first.
            new = unseen(photo)
            same = [callers.submit(client.post, "/embed", content=new) for _ in range(8)]
            assert {200} == {answer.result().status_code for answer in same}
            waiting[:] = [expression for expression in waiting if not prometheus.answer(expression.text)]
            return not waiting

        try:
            eventually(all_shown, "every panel shows something", 90.0)
        except AssertionError:
            pytest.fail(f"these panels stayed empty: {[expression.place for expression in waiting]}")


def test_the_model_servers_panels_are_queries_that_prometheus_takes(watched: tuple[Prometheus, Gateway]) -> None:
    """Without TensorFlow Serving they are empty, and no error."""
    prometheus, _ = watched
    theirs: list[Expression] = [e for e in panel_expressions() if any(own in e.text for own in MODEL_SERVERS_OWN)]
    assert {expression.place: [] for expression in theirs} == {e.place: prometheus.answer(e.text) for e in theirs}


def test_prometheus_evaluates_every_rule(watched: tuple[Prometheus, Gateway]) -> None:
    """None ends in an error, such as a match of many to many."""
    prometheus, _ = watched
    eventually(lambda: {rule["health"] for rule in prometheus.rules()} == {"ok"}, "every rule has been evaluated")
    assert len(prometheus.rules()) == len(rules())


def test_what_is_there_is_not_missed_and_what_is_not_is(watched: tuple[Prometheus, Gateway]) -> None:
    """The gateway is up, its model is ready; the model server is not scraped here, and an alert is on its way."""
    prometheus, _ = watched

    def alarmed() -> set[str]:
        return {rule["name"] for rule in prometheus.rules() if rule.get("alerts")}

    missed = {"MicrotomeGatewayDown", "MicrotomeModelServerDown", "MicrotomeNoInference", "MicrotomeModelNotReady"}
    eventually(lambda: alarmed() & missed == {"MicrotomeModelServerDown"}, f"only the model server among {missed}")


def test_prometheus_shows_every_runbook(watched: tuple[Prometheus, Gateway]) -> None:
    """As text that a browser shows, at the address that alerts lead to."""
    prometheus, _ = watched
    links = {rule["annotations"]["runbook_url"].rpartition("/")[2] for rule in rules() if "alert" in rule}
    for name in sorted(links):
        page = httpx.get(prometheus.url.replace("/api/v1", f"/consoles/{name}"), trust_env=False)
        assert page.is_success, page.text
        assert page.headers["content-type"].startswith("text/plain")
        assert page.text.startswith((RUNBOOKS / name).read_text(encoding="utf-8").splitlines()[0])
