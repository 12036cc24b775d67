"""Probes tell the truth, and metrics count what happened."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from microtome.errors import ModelServerDown
from service.telemetry.metrics import Metrics
from tests.fakes.intake import intake_over
from tests.fakes.model_server import FakeModelServer, card
from tests.pictures import png
from tests.unit.service.http.conftest import LIMITS, Gateway
from tests.unit.service.http.test_embed import problem


async def test_readiness_names_the_models_that_do_not_work(gateway: Gateway) -> None:
    """While the cache can answer, the gateway is ready for that, and says what it cannot do."""
    assert 200 == (await gateway.client.get("/readyz")).status_code
    gateway.server.failure = ModelServerDown("gone")
    answer = await gateway.client.get("/readyz")
    expected = {"ready": True, "models": {"toy": "gone"}, "dependencies": {}}
    assert (200, expected) == (answer.status_code, answer.json())
    assert 200 == (await gateway.client.get("/livez")).status_code


class Two(FakeModelServer):
    """Says that it has another model beside, which works or does not."""

    def __init__(self) -> None:
        super().__init__(card())
        self.other: str | None = None

    def readiness(self) -> Mapping[str, str | None]:
        """Return what is wrong with each."""
        return {**super().readiness(), "other": self.other}


@pytest.mark.parametrize(
    ("toy", "other", "cache", "required", "ready"),
    [
        (None, None, False, (), True),
        ("gone", None, False, (), True),
        ("gone", "gone", False, (), False),
        ("gone", "gone", True, (), True),
        ("gone", None, True, ("toy",), False),
        (None, "gone", True, ("toy",), True),
        (None, "gone", True, ("toy", "other"), False),
        (None, None, True, ("toy", "absent"), False),
    ],
)
def test_ready_is_who_can_answer_something(
    toy: str | None, other: str | None, cache: bool, required: tuple[str, ...], ready: bool
) -> None:
    """One model of two is enough, and so is the cache; a model that is required is not replaced by any of them."""
    server = Two()
    server.failure, server.other = ModelServerDown(toy) if toy else None, other
    with ThreadPoolExecutor(1) as decoders:
        intake = intake_over(server, decoders, Metrics(), bodies=LIMITS)
    asked = replace(intake, required=required, cache_answers=lambda: cache)
    assert ready == asked.ready()
    assert ("absent" in required) == (asked.troubles().get("absent") == "No model server has it.")


async def test_a_model_that_has_never_answered_makes_nothing_ready(gateway: Gateway) -> None:
    """An empty cache cannot answer for it."""
    server = FakeModelServer(card())
    server.failure = ModelServerDown("gone")
    server.cards = lambda: {"toy": None}  # type: ignore[method-assign]  # as at the start
    with ThreadPoolExecutor(1) as decoders:
        assert not intake_over(server, decoders, gateway.metrics, bodies=LIMITS).ready()


async def test_other_names_of_the_probe_say_the_same(gateway: Gateway) -> None:
    """Load balancers ask for /health, older habits for /healthz: whether requests should come here."""
    for ready in (True, False):
        if not ready:
            gateway.server.failure = ModelServerDown("gone")
            gateway.server.cards = lambda: {"toy": None}  # type: ignore[method-assign]  # as at the start
        answers = [await gateway.client.get(path) for path in ("/readyz", "/health", "/healthz")]
        assert [200 if ready else 503] * 3 == [answer.status_code for answer in answers]
        assert answers[0].json() == answers[1].json() == answers[2].json()


async def test_head_is_answered_like_get_on_every_route(gateway: Gateway) -> None:
    """The same status and headers without the body, also of errors; a browser makes nothing else of any."""
    await gateway.client.post("/embed", content=png())
    paths = (await gateway.client.get("/openapi.json")).json()["paths"]
    readable = [
        path.format(name="toy", model="toy", version="1").replace(
            "v2/models/toy/versions/1", "v2/models/toy/versions/3"
        )
        for path, ways in paths.items()
        if "get" in ways
    ]
    hidden = ["/docs", "/openapi.json", "/health", "/healthz", "/docs-assets/swagger-ui.css", "/nowhere", "/models/no"]
    assert len(readable) > 15
    for path in readable + hidden:
        got, asked = await gateway.client.get(path), await gateway.client.head(path)
        assert (got.status_code, b"") == (asked.status_code, asked.content), path
        same = got.headers.keys() - {"x-request-id", "content-length"}
        assert {name: got.headers[name] for name in same} == {name: asked.headers[name] for name in same}, path
        # Metrics have other numbers at each look.
        assert path == "/metrics" or got.headers.get("content-length") == asked.headers.get("content-length"), path
        own = "script-src 'self' 'sha256-" if path == "/docs" else "default-src 'none'; frame-ancestors 'none'"
        assert own in got.headers["content-security-policy"], path
        assert "frame-ancestors 'none'" in got.headers["content-security-policy"], path
        assert ("nosniff", "no-referrer") == (got.headers["x-content-type-options"], got.headers["referrer-policy"])
    assert "GET, HEAD" == (await gateway.client.delete("/livez")).headers["allow"]
    post_only = await gateway.client.head("/embed")
    assert (405, "POST") == (post_only.status_code, post_only.headers["allow"])


async def test_metrics_come_as_openmetrics_when_that_is_asked_for(gateway: Gateway) -> None:
    """As Prometheus asks for it, which reads both; a version that is none is no error."""
    await gateway.client.post("/embed", content=png())
    answer = await gateway.client.get(
        "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    )
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    read: Any = text_string_to_metric_families
    families = {family.name: family for family in read(answer.text)}
    assert answer.text.endswith("# EOF\n")
    assert [1.0] == [one.value for one in families["microtome_requests"].samples if one.labels["route"] == "/embed"]
    for accept in ("", "*/*", "text/plain", "application/openmetrics-text; version=x"):
        plain = await gateway.client.get("/metrics", headers={"Accept": accept})
        assert (200, True) == (plain.status_code, plain.headers["content-type"].startswith("text/plain; version=0.0.4"))
        assert 'microtome_requests_total{route="/embed",status="200"} 1.0' in plain.text


async def test_metrics_count_requests_vectors_and_errors(gateway: Gateway) -> None:
    """One miss, one hit, one error: each is counted under its own labels, and nothing is in flight afterwards."""
    await gateway.client.post("/embed", content=png())
    await gateway.client.post("/embed", content=png())
    await gateway.client.post("/embed?model=from-a-stranger", content=png())
    text = (await gateway.client.get("/metrics")).text
    for line in (
        'microtome_vectors_total{cache="hit",model="toy"} 1.0',
        'microtome_vectors_total{cache="miss",model="toy"} 1.0',
        'microtome_requests_total{route="/embed",status="200"} 2.0',
        'microtome_requests_total{route="/embed",status="404"} 1.0',
        'microtome_errors_total{error="unknown-model"} 1.0',
        'microtome_stage_seconds_count{stage="infer"} 1.0',
        "microtome_images_in_flight 0.0",
        "microtome_body_bytes_in_flight 0.0",
    ):
        assert line in text
    assert "from-a-stranger" not in text


async def test_unknown_paths_share_one_label(gateway: Gateway) -> None:
    """Whatever paths callers ask for, they make no new series."""
    for path in ("/a", "/b", "/c/d"):
        await gateway.client.get(path)
    assert 'microtome_requests_total{route="other",status="404"} 3.0' in (await gateway.client.get("/metrics")).text


async def test_nobody_is_sent_elsewhere(gateway: Gateway) -> None:
    """A slash too many is an unknown path, not a redirect to whatever host the caller has named."""
    for method, path in (("POST", "/embed/"), ("GET", "/models/"), ("GET", "/docs/")):
        answer = await gateway.client.request(method, path, headers={"Host": "evil.example"})
        assert (404, "not-found") == problem(answer)


async def test_the_documentation_needs_no_internet(gateway: Gateway) -> None:
    """Every script and style of /docs comes from this server."""
    page = (await gateway.client.get("/docs")).text
    assert "http" not in page.replace("http-equiv", "")
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert 200 == (await gateway.client.get(f"/docs-assets/{asset}")).status_code


async def test_the_root_leads_on(gateway: Gateway) -> None:
    """GET / names pages that exist."""
    root = (await gateway.client.get("/")).json()
    assert [200] * 4 == [
        (await gateway.client.get(root[name])).status_code for name in ("models", "docs", "metrics", "ready")
    ]


async def test_levels_and_durations_are_shown_as_of_now() -> None:
    """They are told to the library when it is asked, and many together before."""
    metrics = Metrics()
    held = metrics.level(metrics.images_in_flight)
    for images in (3, 2):
        held(images)
    for _ in range(100):
        metrics.stage("decode", 0.004)

    told = metrics.exposition().decode()
    assert "microtome_images_in_flight 2.0" in told
    assert 'microtome_stage_seconds_count{stage="decode"} 100.0' in told
    held(0)
    assert "microtome_images_in_flight 0.0" in metrics.exposition().decode()
