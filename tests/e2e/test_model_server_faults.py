"""Without a model server: a quick and honest 503, and service by itself once it is back."""

import signal
import time
from collections.abc import Callable

import httpx

from tests.e2e.answers import embed, relative_error, vector
from tests.e2e.conftest import Stack
from tests.e2e.drill import SAME, Drill, exactly, exactly_or_come_back
from tests.e2e.photos import example, unseen
from tests.e2e.processes import eventually

AT_ONCE = 2.0


def test_a_dead_model_server_is_a_quick_503_that_says_when_to_come_back(stack: Stack) -> None:
    """No hang, no 500: 503 with Retry-After; what is cached is served all the same; readiness tells the truth."""
    known = example("cat")
    with stack.gateway.client() as client:
        before = embed(client, known)
        stack.model_server.kill()
        begin = time.monotonic()
        response = client.post("/embed", content=unseen(known), headers={"content-type": "image/jpeg"})
        seconds = time.monotonic() - begin
        assert (response.status_code, response.json()["status"]) == (503, 503)
        assert int(response.headers["retry-after"]) >= 1
        assert seconds < AT_ONCE
        assert embed(client, known)["embeddings"][0]["vector"] == before["embeddings"][0]["vector"]
        eventually(lambda: client.get("/readyz").json()["models"]["lite0"], "/readyz names the model")
        # The cache answers, so Kubernetes must leave the gateway in the Service.
        assert client.get("/readyz").status_code == httpx.codes.OK
        gone = {"model_server": "1 of 1 cannot be reached.", "redis": None}
        eventually(lambda: client.get("/readyz").json()["dependencies"] == gone, "and whom it lacks")
        assert client.get("/livez").status_code == httpx.codes.OK


def test_service_returns_by_itself_with_the_model_server(stack: Stack) -> None:
    """The gateway that saw it die is the gateway that serves again, with the same vectors."""
    photo = example("astronaut")
    gateway = stack.gateway.pid
    with stack.gateway.client() as client:
        before = vector(embed(client, unseen(photo)))
        stack.model_server.kill()
        stack.model_server.start()
        eventually(stack.gateway.serving, "the gateway is ready again")
        assert relative_error(vector(embed(client, unseen(photo))), before) <= SAME
    assert stack.gateway.running
    assert stack.gateway.pid == gateway


def test_a_frozen_model_server_under_load_fails_nothing(
    stack: Stack, record_property: Callable[[str, object], None]
) -> None:
    """SIGSTOP: cached vectors are answered, readiness tells the truth, and what waited is answered after SIGCONT."""
    photos = {"cat": example("cat"), "coffee": example("coffee")}
    with stack.gateway.client() as client:
        expected = {name: vector(embed(client, photo)) for name, photo in photos.items()}
        with Drill(stack.gateway, photos, exactly(expected)) as drill:
            drill.more(30)
            stack.model_server.send(signal.SIGSTOP)
            try:
                eventually(lambda: client.get("/readyz").json()["models"]["lite0"], "/readyz names the model")
                assert "hit" == client.post("/embed", content=photos["cat"]).headers["x-cache"]
            finally:
                stack.model_server.send(signal.SIGCONT)
            eventually(stack.gateway.serving, "the gateway is ready again")
            drill.more(30)
    record_property("drill", f"model server frozen and thawed: {drill.tally}")
    assert (drill.tally.failures, drill.tally.wrong) == ([], [])


def test_killing_the_model_server_under_load_is_right_or_503(
    stack: Stack, record_property: Callable[[str, object], None]
) -> None:
    """Through crash and return every answer is the right vector or an honest 503, and none is late."""
    photos = {"cat": example("cat"), "coffee": example("coffee")}
    with stack.gateway.client() as client:
        expected = {name: vector(embed(client, photo)) for name, photo in photos.items()}

    def refused(answers: list[tuple[str, httpx.Response]]) -> int:
        return sum(response.status_code == httpx.codes.SERVICE_UNAVAILABLE for _, response in answers)

    with Drill(stack.gateway, photos, exactly_or_come_back(expected)) as drill:
        drill.more(30)
        stack.model_server.kill()
        drill.until(lambda tally: refused(tally.answers) > 10, "503 is answered")
        stack.model_server.start()
        eventually(stack.gateway.serving, "the gateway is ready again")
        before = refused(drill.tally.answers)
        drill.more(30)
    late = refused(drill.tally.answers) - before
    record_property("drill", f"model server killed and started: {drill.tally}, {before} answered 503")
    assert (drill.tally.failures, drill.tally.wrong, late) == ([], [], 0)
    assert drill.tally.slowest < 5.0
