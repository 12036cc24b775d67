"""Ten times more clients than the gateway can serve: it serves as many as before, and refuses the rest at once."""

import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e.answers import embed, relative_error, vector
from tests.e2e.drill import SAME
from tests.e2e.photos import example, unseen
from tests.e2e.processes import Gateway, ModelServer, eventually

CLIENTS = 40


@dataclass(frozen=True)
class Crowd:
    """What is overrun."""

    gateway: Gateway
    model_server: ModelServer


@pytest.fixture(scope="module")
def crowd(directory: Path, models: Path) -> Iterator[Crowd]:
    """A gateway with room for four images at a time, and no cache to help it."""
    server = ModelServer(directory, models)
    gateway = Gateway(directory, server.address, cache_bytes=0, max_images_in_flight=4)
    server.start()
    gateway.start()
    yield Crowd(gateway, server)
    gateway.destroy()
    server.destroy()


def test_overload_is_refused_and_what_is_accepted_is_right(
    crowd: Crowd, record_property: Callable[[str, object], None]
) -> None:
    """Every answer is the right vector, or 429 that says when to come back; afterwards nothing is held any more."""
    photo = example("cat")
    with crowd.gateway.client() as client:
        expected = vector(embed(client, photo))
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    lock = threading.Lock()

    def send() -> None:
        with crowd.gateway.client() as client:
            for _ in range(10):
                response = client.post("/embed", content=unseen(photo), headers={"content-type": "image/jpeg"})
                fault = None
                if response.status_code == httpx.codes.OK:
                    if relative_error(vector(response.json()), expected) > SAME:
                        fault = "a wrong vector"
                elif response.status_code != httpx.codes.TOO_MANY_REQUESTS or "retry-after" not in response.headers:
                    fault = f"{response.status_code} {response.text[:200]}"
                with lock:
                    statuses[response.status_code] += 1
                    wrong.extend([fault] if fault else [])

    threads = [threading.Thread(target=send) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record_property("drill", f"{CLIENTS} clients, room for 4: {dict(statuses)} by status, {len(wrong)} wrong")
    assert [] == wrong
    assert statuses[httpx.codes.OK] > 0
    assert statuses[httpx.codes.TOO_MANY_REQUESTS] > 0
    assert sum(statuses.values()) == 10 * CLIENTS
    with crowd.gateway.client() as client:
        assert "microtome_images_in_flight 0.0" in client.get("/metrics").text
        embed(client, unseen(photo))


def test_a_bulk_run_leaves_interactive_requests_a_place_and_a_call(crowd: Crowd) -> None:
    """With the model server frozen: bulk requests take three of four places and all slots, and no more of either."""
    gateway, photo = crowd.gateway, example("cat")

    def shows(*lines: str) -> Callable[[], bool]:
        return lambda: set(lines) <= set(client.get("/metrics").text.splitlines())

    def send(query: str = "") -> httpx.Response:
        with gateway.client() as own:
            return own.post(f"/embed?{query}", content=unseen(photo), headers={"content-type": "image/jpeg"})

    calls = 'microtome_batch_images_count{model="lite0"}'
    with gateway.client() as client, ThreadPoolExecutor(4) as threads:
        expected = vector(embed(client, photo))
        before = next(line for line in client.get("/metrics").text.splitlines() if line.startswith(calls))
        made = float(before.rpartition(" ")[2])
        crowd.model_server.send(signal.SIGSTOP)
        try:
            run = []
            for number in (1, 2):
                # Each in a call of its own, not two that are decoded in one moment in a call.
                run.append(threads.submit(send, "priority=bulk"))
                eventually(shows(f"{calls} {made + number}"), "a bulk image is sent")
            run.append(threads.submit(send, "priority=bulk"))
            waits = 'microtome_queued_images{priority="bulk"} 1.0'
            eventually(shows("microtome_bulk_images_in_flight 3.0", waits), "a bulk image waits for a slot")
            refused = send("priority=bulk")
            assert httpx.codes.TOO_MANY_REQUESTS == refused.status_code
            assert int(refused.headers["retry-after"]) >= 1
            asked = threads.submit(send)
            sent = f"{calls} {made + 3}"
            eventually(shows(sent, waits, "microtome_images_in_flight 4.0"), "the interactive image is sent before it")
        finally:
            crowd.model_server.send(signal.SIGCONT)
        answers = [asked.result(), *(one.result() for one in run)]
        text = client.get("/metrics").text
    assert all(relative_error(vector(answer.json()), expected) < SAME for answer in answers)
    assert 'microtome_overloads_total{reason="bulk-images"} 1.0' in text


def test_a_client_that_goes_away_cancels_its_work(crowd: Crowd) -> None:
    """What is not waited for is held no longer, and its place is free for others."""
    gateway = crowd.gateway

    def held(images: int) -> Callable[[], bool]:
        return lambda: f"microtome_images_in_flight {images}.0" in client.get("/metrics").text

    with gateway.client() as client, ExitStack() as sockets:
        crowd.model_server.send(signal.SIGSTOP)
        for _ in range(4):
            photo = unseen(example("coffee"))
            connection = sockets.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            connection.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(photo) + photo)
        eventually(held(4), "four images wait for a frozen model server")
        sockets.close()
        eventually(held(0), "nothing is held")
        crowd.model_server.send(signal.SIGCONT)
        embed(client, unseen(example("coffee")))
