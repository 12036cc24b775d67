"""Written responses: bounded in bytes, evicted by least recent use, valid for the version in use."""

import asyncio

from service.cache.memory import ByteBoundedLRU
from service.http.response_cache import Entry, Key, entry_cost
from tests.fakes.model_server import card
from tests.pictures import png
from tests.unit.service.http.conftest import Gateway


def entry(size: int) -> Entry:
    """An answer with a body of so many bytes."""
    return Entry("toy", card(), [], bytes(size))


def key(digest: str) -> Key:
    """A question about an image."""
    return Key("/embed", digest, b"", b"*/*")


def test_the_bound_holds_and_the_least_recently_used_leave() -> None:
    """What was asked for again stays; what was not asked for goes; what is larger than all room is not kept."""
    table = ByteBoundedLRU(10_000, entry_cost)
    for name in ("a", "b", "c"):
        table.put(key(name), entry(1_500))
    assert table.get(key("a")) is not None
    table.put(key("d"), entry(1_500))
    assert [True, False, True, True] == [table.get(key(name)) is not None for name in ("a", "b", "c", "d")]
    table.put(key("large"), entry(9_000))
    assert table.get(key("large")) is None
    assert 0 < table.size <= 10_000


def test_keeping_anew_and_dropping_give_the_bytes_back() -> None:
    """The same question has one answer, and what is dropped costs nothing."""
    table = ByteBoundedLRU(10_000, entry_cost)
    table.put(key("a"), entry(10))
    before = table.size
    table.put(key("a"), entry(20))
    assert before + 10 == table.size
    table.drop(key("a"))
    table.drop(key("a"))
    assert 0 == table.size


def test_no_room_keeps_nothing() -> None:
    """Zero bytes switch it off."""
    table = ByteBoundedLRU(0, entry_cost)
    table.put(key("a"), entry(0))
    assert table.get(key("a")) is None


async def test_what_was_kept_is_not_given_for_another_version(gateway: Gateway) -> None:
    """A new version answers for itself, from the first request on."""
    for _ in range(3):
        await gateway.client.post("/embed?output=corner", content=png())
    gateway.server.current = card(2)
    answers = [await gateway.client.post("/embed?output=corner", content=png()) for _ in range(3)]
    assert [("2", "miss"), ("2", "hit"), ("2", "hit")] == [
        (each.headers["x-model-version"], each.headers["x-cache"]) for each in answers
    ]
    assert all(each.json()["embeddings"][0]["vector"][-1] == 2 for each in answers)


async def test_what_was_kept_is_given_while_there_is_room_for_nothing_else(gateway: Gateway) -> None:
    """A hit takes no place among the images in flight, so it is answered when all places are taken."""
    for _ in range(3):
        await gateway.client.post("/embed", content=png())
    gateway.server.gate.clear()
    others = [asyncio.create_task(gateway.client.post("/embed", content=png(seed))) for seed in range(1, 5)]
    await gateway.server.called(4)
    assert 429 == (await gateway.client.post("/embed", content=png(9))).status_code
    assert "hit" == (await gateway.client.post("/embed", content=png())).headers["x-cache"]
    gateway.server.gate.set()
    assert {200} == {each.status_code for each in await asyncio.gather(*others)}
