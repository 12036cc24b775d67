"""Two gateways over one Valkey under Sentinel: each vector is computed once, and the dead are not waited for long."""

import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redis

from tests.e2e.answers import embed, relative_error, vector
from tests.e2e.drill import SAME, Drill, exactly
from tests.e2e.photos import NAMES, example, unseen
from tests.e2e.processes import Gateway, ModelServer, Process, eventually
from tests.e2e.redis_topologies import Watched

LEASE = 8.0
"""Seconds; longer than fifty requests take to arrive on a busy machine, and short enough to be waited for."""


@dataclass(frozen=True)
class Shared:
    """All processes of a deployment with two gateways."""

    watched: Watched
    model_server: ModelServer
    gateways: tuple[Gateway, Gateway]

    def processes(self) -> list[Process]:
        """In the order in which they are started."""
        return [*self.watched.processes(), self.model_server, *self.gateways]

    def claims(self) -> int:
        """How many vectors are claimed now."""
        with self.watched.master.client() as client:
            return len(client.keys("mt1-claim:*"))


@pytest.fixture(scope="module")
def shared(directory: Path, models: Path) -> Iterator[Shared]:
    """Two gateways without a memory of their own, so that all they share is Valkey."""
    watched = Watched(directory)
    model_server = ModelServer(directory, models)
    gateways = []
    for number in range(2):
        (place := directory / f"gateway-{number}").mkdir()
        # With time enough for a machine that does much else: a budget that is overrun is another test's subject.
        gateways.append(
            Gateway(
                place,
                model_server.address,
                redis_url=watched.url,
                cache_bytes=0,
                cache_lease=LEASE,
                cache_budget=2,
            )
        )
    shared = Shared(watched, model_server, (gateways[0], gateways[1]))
    try:
        watched.start()
        for process in (model_server, *gateways):
            process.launch()
        for process in (model_server, *gateways):
            process.until_serving()
        yield shared
    finally:
        for process in reversed(shared.processes()):
            process.destroy()


def counted(gateway: Gateway, pattern: str) -> int:
    """A number among a gateway's metrics; 0 while it is not there."""
    with gateway.client() as client:
        found = re.search(rf"^microtome_{pattern} (\d+)", client.get("/metrics").text, re.MULTILINE)
    return int(found[1]) if found else 0


def sent_for_inference(shared: Shared) -> int:
    """How many images both gateways have had computed."""
    return sum(counted(gateway, r'batch_images_sum\{model="lite0"\}') for gateway in shared.gateways)


def ask(client: httpx.Client, photo: bytes) -> httpx.Response:
    """Send one photo."""
    return client.post("/embed", content=photo, headers={"content-type": "image/jpeg"})


def test_fifty_equal_requests_at_two_gateways_are_one_inference(
    shared: Shared, record_property: Callable[[str, object], None]
) -> None:
    """The first is held up at the model server until all others wait; then one inference answers all of them."""
    photo, before = unseen(example("cat")), sent_for_inference(shared)
    shared.model_server.send(signal.SIGSTOP)
    with ThreadPoolExecutor(50) as pool, shared.gateways[0].client() as one, shared.gateways[1].client() as two:
        try:
            answers = [pool.submit(ask, one, photo)]
            eventually(lambda: shared.claims() == 1, "the vector is claimed")
            answers += [pool.submit(ask, (one, two)[turn % 2], photo) for turn in range(49)]
            for gateway, waiting in zip(shared.gateways, (26, 24), strict=True):
                eventually(lambda g=gateway, n=waiting: counted(g, "images_in_flight") == n, "all wait")  # type: ignore[misc]
        finally:
            shared.model_server.send(signal.SIGCONT)
        found = [answer.result().json() for answer in answers]
    record_property("drill", f"50 equal requests at two gateways: {sent_for_inference(shared) - before} inference")
    assert 1 == sent_for_inference(shared) - before
    assert 1 == len({str(answer["embeddings"][0]["vector"]) for answer in found})
    sources = [answer["embeddings"][0]["cache"] for answer in found]
    assert (1, 49) == (sources.count("miss"), sources.count("coalesced"))


def test_a_gateway_killed_in_mid_inference_costs_its_lease_and_no_more(shared: Shared) -> None:
    """The other gateway waits for the claim to end, computes, and answers; the dead one's caller sees it die."""
    photo = unseen(example("coffee"))
    holder, other = shared.gateways
    with ThreadPoolExecutor(2) as pool, holder.client() as one, other.client() as two:
        expected = vector(ask(two, example("coffee")).json())
        shared.model_server.send(signal.SIGSTOP)
        try:
            lost = pool.submit(ask, one, photo)
            eventually(lambda: shared.claims() == 1, "the vector is claimed")
            waiting = pool.submit(ask, two, photo)
            eventually(lambda: counted(other, "images_in_flight") == 1, "the other one waits")
            holder.kill()
        finally:
            shared.model_server.send(signal.SIGCONT)
        answer = waiting.result()
        assert isinstance(lost.exception(), httpx.HTTPError)
    assert answer.status_code == httpx.codes.OK, answer.text
    assert "elsewhere;dur=" in answer.headers["server-timing"]
    assert relative_error(vector(answer.json()), expected) <= SAME
    holder.start()


def test_a_failover_under_load_fails_nothing(shared: Shared, record_property: Callable[[str, object], None]) -> None:
    """The master dies, Sentinel makes its replica the master, and the gateway finds it by itself."""
    photos = {name: example(name) for name in NAMES}
    gateway, replica = shared.gateways[0], shared.watched.replica

    def promoted() -> bool:
        with replica.client() as client, suppress(redis.ConnectionError):
            return bool(client.info("replication")["role"] == "master")
        # Who becomes a master closes its connections.
        return False

    with gateway.client() as client:
        expected = {name: vector(embed(client, photo)) for name, photo in photos.items()}
    with Drill(gateway, photos, exactly(expected)) as drill:
        drill.more(30)
        shared.watched.master.kill()
        drill.until(lambda _: promoted(), "the replica is master")
        known = replica.keys()
        drill.until(lambda _: replica.keys() > known, "vectors are written to the new master")
        drill.more(30)
    record_property("drill", f"Sentinel's master killed: {drill.tally}")
    assert (drill.tally.failures, drill.tally.wrong) == ([], [])
