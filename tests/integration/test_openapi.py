"""The gateway keeps what its OpenAPI document promises, whatever comes: schemathesis over real connections."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.types import ASGIApp

from service.http.app import HttpOptions, http_app
from service.http.bodies import BodyLimits
from service.telemetry.logs import configure
from service.telemetry.metrics import Metrics
from tests.fakes.intake import intake_over
from tests.fakes.model_server import FakeModelServer, classes_card


@asynccontextmanager
async def _nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


def application(decoders: ThreadPoolExecutor) -> ASGIApp:
    """The application over a fake model server."""
    server, metrics = FakeModelServer(classes_card()), Metrics()
    limits = BodyLimits(50_000, 90_000, 3)
    return http_app(
        intake=intake_over(server, decoders, metrics, bodies=limits),
        options=HttpOptions(limits, version="0"),
        metrics=metrics,
        log=configure("json", "warning"),
        lifespan=_nothing,
    )


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where the application listens, on an event loop of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(2) as decoders:
        servers: list[uvicorn.Server] = []
        ready = threading.Event()

        async def serve() -> None:
            config = uvicorn.Config(application(decoders), http="httptools", log_level="warning", lifespan="off")
            servers.append(uvicorn.Server(config))
            ready.set()
            await servers[0]._serve(sockets=[listener])

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        ready.wait()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        servers[0].should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def api(url: str) -> Any:
    """The served document."""
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


RIGHT, WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE

REQUESTS = (
    *(("POST", "/embed", mode) for mode in (RIGHT, WRONG)),
    *(("POST", path, RIGHT) for path in ("/v1/embeddings", "/v2/embed", "/v1/multimodalembeddings", "/vectors")),
    *(("POST", path, RIGHT) for path in ("/vectorize", "/v2/models/{model}/infer")),
    *(("GET", path, RIGHT) for path in ("/models", "/models/{name}", "/readyz", "/")),
)


@pytest.mark.parametrize(("method", "path", "mode"), REQUESTS)
def test_no_request_gets_what_is_not_documented(api: Any, method: str, path: str, mode: GenerationMode) -> None:
    """No 5xx but the caller's own deadline; every status, content type and body as the document says."""
    examples = 60 if path == "/embed" else 15 if method == "POST" else 10

    @given(case=api[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def holds(case: Any) -> None:
        response = case.call()
        own_deadline = response.status_code == 504 and "X-Request-Timeout" in (case.headers or {})
        assert response.status_code < 500 or own_deadline, response.text
        case.validate_response(
            response, checks=[status_code_conformance, content_type_conformance, response_schema_conformance]
        )

    holds()


def test_the_documents_examples_work_as_they_stand(url: str) -> None:
    """Each example of a JSON body, sent as it is, is answered with vectors."""
    with httpx.Client(base_url=url, trust_env=False) as client:
        document = client.get("/openapi.json").json()
        content = document["paths"]["/embed"]["post"]["requestBody"]["content"]["application/json"]
        for name, example in content["examples"].items():
            answer = client.post("/embed", json=example["value"])
            assert answer.status_code == 200, (name, answer.text)
            assert len(answer.json()["embeddings"]) == len(example["value"].get("images", [0]))


def test_every_example_of_classify_works_as_it_stands(url: str) -> None:
    """Each is answered with labels."""
    with httpx.Client(base_url=url, trust_env=False) as client:
        body = client.get("/openapi.json").json()["paths"]["/classify"]["post"]["requestBody"]
        for name, example in body["content"]["application/json"]["examples"].items():
            answer = client.post("/classify", json=example["value"])
            assert answer.status_code == 200, (name, answer.text)
            assert len(answer.json()["predictions"]) == len(example["value"].get("images", [0]))


def test_every_example_of_another_contract_works_as_it_stands(url: str) -> None:
    """Each route of a dialect has one, and it is answered with vectors."""
    with httpx.Client(base_url=url, trust_env=False) as client:
        paths = client.get("/openapi.json").json()["paths"]
        dialects = [path for path in paths if "post" in paths[path] and path not in {"/embed", "/classify"}]
        assert {"/v1/embeddings", "/embeddings", "/v2/embed", "/v1/multimodalembeddings", "/vectors"} <= set(dialects)
        assert {"/vectorize", "/v2/models/{model}/versions/{version}/infer"} <= set(dialects)
        for path in dialects:
            example = paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]
            named = {one["name"]: one["example"] for one in paths[path]["post"].get("parameters", ())}
            named |= {"output": "mean"} if "output" in named else {}  # the only one with classes here
            answer = client.post(path.format_map(named), json=example)
            assert answer.status_code == 200, (path, answer.text)
