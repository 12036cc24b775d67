"""The core asks the cache first, computes only what is missing, and never mixes versions."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf

import numpy as np
import pytest

from microtome.errors import (
    BadRequest,
    BrokenImage,
    DeadlineExceeded,
    ModelServerDown,
    Overloaded,
    TooManyImages,
    UnknownModel,
    UnknownOutput,
    UnknownVersion,
)
from service.cache.memory import MemoryCache
from service.core.admission import Backlog, Budget
from service.core.cache_keys import image_digest, vector_key
from service.core.decoding import DecodeMemory, Decoding
from service.core.embedder import Embedder, Limits
from service.core.ports import Acquired, Leases
from service.core.requests import EmbedRequest
from service.core.single_flight import NoLeases
from service.core.timeouts import current_deadline, within
from service.core.timings import Timings, unobserved
from service.model_server.batcher import Batcher
from service.telemetry.metrics import Metrics
from tests.fakes.model_server import FakeModelServer, card
from tests.pictures import png


class Bench:
    """An embedder, and what it stands on."""

    def __init__(self, decoders: ThreadPoolExecutor, leases: Leases | None = None, *, slots: int = 0) -> None:
        self.server = FakeModelServer(card())
        self.cache = MemoryCache(1 << 20)
        self.budget = Budget(64, "images")
        self.metrics = Metrics()
        self.embedder = Embedder(
            Batcher(self.server, slots=slots, metrics=self.metrics) if slots else self.server,
            self.cache,
            limits=Limits(max_images=6),
            budget=self.budget,
            decoding=Decoding(decoders, DecodeMemory(1 << 30), at_a_time=2, max_pixels=10_000),
            observer=self.metrics,
            leases=leases,
        )


@pytest.fixture
def bench() -> Iterator[Bench]:
    """An embedder over a fake model server with room for four images a batch."""
    with ThreadPoolExecutor(2) as decoders:
        yield Bench(decoders)


async def test_a_second_request_is_answered_by_the_cache(bench: Bench) -> None:
    """The same image again costs no inference and gives the same vector."""
    first = await bench.embedder.embed(EmbedRequest("toy"), [png()])
    second = await bench.embedder.embed(EmbedRequest("toy"), [png()])
    assert [(1, ("mean",), 1)] == bench.server.calls
    assert ["miss", "hit"] == [first.embeddings[0].cache, second.embeddings[0].cache]
    np.testing.assert_array_equal(first.embeddings[0].vector, second.embeddings[0].vector)


async def test_nothing_is_decoded_before_the_cache_has_been_asked(bench: Bench) -> None:
    """What has a vector there is never looked at: here it would not even be an image."""
    known, vector = b"no image", np.arange(3, dtype="<f4")
    key = vector_key(card().manifest.fingerprint, "mean", image_digest(known))
    await bench.cache.put_many({key: vector.tobytes()})
    answer = await bench.embedder.embed(EmbedRequest("toy"), [known, png()])
    assert ["hit", "miss"] == [e.cache for e in answer.embeddings]
    np.testing.assert_array_equal(vector, answer.embeddings[0].vector)


async def test_only_what_is_missing_is_computed(bench: Bench) -> None:
    """One output cached, another not; one image cached, another not: each missing pair is computed once."""
    await bench.embedder.embed(EmbedRequest("toy", outputs=("mean",)), [png(1), png(2)])
    await bench.embedder.embed(EmbedRequest("toy", outputs=("corner",)), [png(2)])
    bench.server.calls.clear()
    answer = await bench.embedder.embed(EmbedRequest("toy", outputs=("mean", "corner")), [png(1), png(2), png(3)])
    assert sorted([(1, ("corner",), 1), (1, ("mean", "corner"), 1)]) == sorted(bench.server.calls)
    cached = [(e.index, e.output, e.cache) for e in answer.embeddings]
    assert cached == [
        (0, "mean", "hit"), (0, "corner", "miss"),
        (1, "mean", "hit"), (1, "corner", "hit"),
        (2, "mean", "miss"), (2, "corner", "miss"),
    ]  # fmt: skip


async def test_equal_images_of_a_request_are_computed_once(bench: Bench) -> None:
    """Answers stay in the order of the request, and equal images share one inference."""
    answer = await bench.embedder.embed(EmbedRequest("toy"), [png(1), png(2), png(1)])
    assert [(1, ("mean",), 1)] * 2 == bench.server.calls
    one, two, three = (e.vector for e in answer.embeddings)
    np.testing.assert_array_equal(one, three)
    assert not np.array_equal(one, two)


async def test_a_version_that_goes_is_followed_by_its_successor(bench: Bench) -> None:
    """Unloaded between lookup and inference: the new version answers the whole request."""
    await bench.embedder.embed(EmbedRequest("toy"), [png(1)])
    bench.server.next = card(version=2)
    answer = await bench.embedder.embed(EmbedRequest("toy", outputs=("mean", "corner")), [png(1), png(2)])
    assert answer.card.version == 2
    assert [(0, "miss"), (1, "miss")] == [(e.index, e.cache) for e in answer.embeddings if e.output == "corner"]
    assert [2, 2] == [e.vector[-1] for e in answer.embeddings if e.output == "corner"]


@pytest.mark.parametrize("value", [b"", b"123", b"0" * 16])
async def test_a_cached_value_of_the_wrong_length_is_a_miss(bench: Bench, value: bytes) -> None:
    """Whatever stands in the cache, a vector has the dimension of its output."""
    key = vector_key(card().manifest.fingerprint, "mean", image_digest(png()))
    await bench.cache.put_many({key: value})
    answer = await bench.embedder.embed(EmbedRequest("toy"), [png()])
    assert [(3, "miss")] == [(len(e.vector), e.cache) for e in answer.embeddings]


async def test_a_bad_image_is_named_and_harms_no_later_request(bench: Bench) -> None:
    """The error says which image; the good ones of that request work in the next one."""
    with pytest.raises(BrokenImage, match=r"Image 1: .*truncated"):
        await bench.embedder.embed(EmbedRequest("toy"), [png(1), png(2)[:-200], png(3)])
    answer = await bench.embedder.embed(EmbedRequest("toy"), [png(1), png(3)])
    assert [0, 1] == [e.index for e in answer.embeddings]


async def test_errors_come_before_work(bench: Bench) -> None:
    """Unknown names, no image, too many: refused without an inference, and the budget is free again."""
    with pytest.raises(UnknownModel, match="Known: 'toy'"):
        await bench.embedder.embed(EmbedRequest("toi"), [png()])
    with pytest.raises(UnknownOutput, match="'corner', 'mean'"):
        await bench.embedder.embed(EmbedRequest("toy", outputs=("maen",)), [png()])
    with pytest.raises(BadRequest):
        await bench.embedder.embed(EmbedRequest("toy"), [])
    with pytest.raises(TooManyImages, match="at most 6 images a request, received 7"):
        await bench.embedder.embed(EmbedRequest("toy"), [png()] * 7)
    with bench.budget.hold(64), pytest.raises(Overloaded):
        await bench.embedder.embed(EmbedRequest("toy"), [png()])
    assert [] == bench.server.calls


async def test_who_would_wait_too_long_is_refused_before_work_but_not_who_joins(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that found nothing is enough to refuse; what is being computed already needs no turn of its own."""
    bench.server.gate.clear()
    first = asyncio.create_task(bench.embedder.embed(EmbedRequest("toy"), [png(1)]))
    await bench.server.called(1)
    monkeypatch.setattr(Backlog, "wait", lambda _: 99.0)
    looks = [bench.embedder.looked(EmbedRequest("toy"), [image_digest(png(seed))]) for seed in (1, 2)]
    under_way, new = (look for look in looks if look is not None)
    bench.embedder.require_room(1, under_way)
    with pytest.raises(Overloaded, match="would wait about 99"):
        bench.embedder.require_room(1, new)
    joined = asyncio.create_task(bench.embedder.embed(EmbedRequest("toy"), [png(1)], lookup=under_way))
    bench.server.gate.set()
    assert ["miss", "coalesced"] == [(await task).embeddings[0].cache for task in (first, joined)]
    assert 1 == len(bench.server.calls)


async def test_what_was_looked_up_is_not_looked_up_again(bench: Bench) -> None:
    """The cache is not asked twice for one request, unless another version has come into use since."""
    await bench.embedder.embed(EmbedRequest("toy", outputs=("corner",)), [png()])
    look = bench.embedder.looked(EmbedRequest("toy", outputs=("corner",)), [image_digest(png())])
    assert look is not None
    assert look.complete
    await bench.cache.close()
    request = EmbedRequest("toy", outputs=("corner",))
    assert "hit" == (await bench.embedder.embed(request, [png()], lookup=look)).embeddings[0].cache
    bench.server.current = card(version=2)
    renewed = (await bench.embedder.embed(request, [png()], lookup=look)).embeddings[0]
    assert ("miss", 2) == (renewed.cache, renewed.vector[-1])


async def test_cached_vectors_are_answered_while_the_model_server_is_down(bench: Bench) -> None:
    """A vector is named by its model's fingerprint: it stays right whatever happens to the server."""
    await bench.embedder.embed(EmbedRequest("toy"), [png(1)])
    bench.server.failure = ModelServerDown("gone")
    assert (await bench.embedder.embed(EmbedRequest("toy"), [png(1)])).embeddings[0].cache == "hit"
    with pytest.raises(ModelServerDown):
        await bench.embedder.embed(EmbedRequest("toy"), [png(2)])


async def test_fifty_equal_requests_on_a_cold_cache_are_one_inference(bench: Bench) -> None:
    """One computes, the others wait for it, and all get the same vector; nothing is left over."""
    bench.server.gate.clear()
    asked = [asyncio.create_task(bench.embedder.embed(EmbedRequest("toy"), [png()])) for _ in range(50)]
    await bench.server.called(1)
    bench.server.gate.set()
    answers = [(await task).embeddings[0] for task in asked]
    assert [(1, ("mean",), 1)] == bench.server.calls
    assert Counter(miss=1, coalesced=49) == Counter(answer.cache for answer in answers)
    assert len({answer.vector.tobytes() for answer in answers}) == 1


async def test_overlapping_outputs_are_computed_once(bench: Bench) -> None:
    """Who wants two outputs, one of which is being computed, computes the other."""
    bench.server.gate.clear()
    one = asyncio.create_task(bench.embedder.embed(EmbedRequest("toy", outputs=("mean",)), [png()]))
    await bench.server.called(1)
    two = asyncio.create_task(bench.embedder.embed(EmbedRequest("toy", outputs=("all",)), [png()]))
    await bench.server.called(2)
    bench.server.gate.set()
    assert ["miss"] == [e.cache for e in (await one).embeddings]
    assert ["coalesced", "miss"] == [e.cache for e in (await two).embeddings]
    assert [("mean",), ("corner",)] == [outputs for _, outputs, _ in bench.server.calls]


async def test_a_leader_who_goes_away_harms_no_follower(bench: Bench) -> None:
    """The work goes on for those that stay; without any it is cancelled, and the next request starts another one."""
    bench.server.gate.clear()
    leader = asyncio.create_task(bench.embedder.embed(EmbedRequest("toy"), [png()]))
    await bench.server.called(1)
    follower = asyncio.create_task(bench.embedder.embed(EmbedRequest("toy"), [png()]))
    await asyncio.sleep(0)
    leader.cancel()
    await asyncio.wait([leader])
    bench.server.gate.set()
    assert "coalesced" == (await follower).embeddings[0].cache
    bench.server.gate.clear()
    alone = asyncio.create_task(bench.embedder.embed(EmbedRequest("toy"), [png(2)]))
    await bench.server.called(2)
    alone.cancel()
    await asyncio.wait([alone])
    bench.server.gate.set()
    assert "miss" == (await bench.embedder.embed(EmbedRequest("toy"), [png(2)])).embeddings[0].cache
    assert len(bench.server.calls) == 2


async def test_the_model_server_is_told_until_when_somebody_waits(bench: Bench) -> None:
    """The caller's deadline; without a caller there is no deadline."""
    async with within(60):
        until = current_deadline()
        await bench.embedder.embed(EmbedRequest("toy"), [png(1)])
    await bench.embedder.embed(EmbedRequest("toy"), [png(2)])
    assert [until, inf] == bench.server.deadlines


async def test_who_joins_those_in_a_hurry_is_answered_all_the_same(bench: Bench) -> None:
    """What was sent with their deadline and failed for it is sent again for those that wait longer."""
    bench.server.gate.clear()
    bench.server.failure = DeadlineExceeded("Too late.")
    async with within(60):
        hurried = asyncio.create_task(bench.embedder.embed(EmbedRequest("toy"), [png()]))
        await bench.server.called(1)
    async with within(600):
        patient = asyncio.create_task(bench.embedder.embed(EmbedRequest("toy"), [png()]))
        await asyncio.sleep(0)
        until = current_deadline()
    # The cache answers in a tick; the flight is boarded then.
    await asyncio.sleep(0)
    bench.server.gate.set()
    bench.server.gate.clear()
    await bench.server.called(2)
    bench.server.failure = None
    bench.server.gate.set()
    assert "coalesced" == (await patient).embeddings[0].cache
    assert "miss" == (await hurried).embeddings[0].cache
    assert abs(until - bench.server.deadlines[1]) < 1


async def test_followers_of_a_bad_image_learn_their_own_index(bench: Bench) -> None:
    """The same broken image at another place of another request: each is told its own place."""
    bad = png(9)[:-200]
    answers = await asyncio.gather(
        bench.embedder.embed(EmbedRequest("toy"), [bad]),
        bench.embedder.embed(EmbedRequest("toy"), [png(1), bad]),
        return_exceptions=True,
    )
    assert ["Image 0: ", "Image 1: "] == [str(error)[:9] for error in answers]


async def test_skipped_images_are_named_beside_the_vectors_of_the_good_ones(bench: Bench) -> None:
    """Each bad image has its own error; with none good there is no vector, and no error either."""
    skip = EmbedRequest("toy", on_error="skip")
    answer = await bench.embedder.embed(skip, [png(1), b"GIF but no", png(2)[:-200], png(3)])
    assert [0, 3] == [e.index for e in answer.embeddings]
    assert [(1, "NotAnImage"), (2, "BrokenImage")] == [(e.index, type(e.error).__name__) for e in answer.errors]
    assert str(answer.errors[0].error).startswith("Image 1: ")
    assert [] == (await bench.embedder.embed(skip, [b"x"])).embeddings
    bench.server.failure = ModelServerDown("gone")
    with pytest.raises(ModelServerDown):
        await bench.embedder.embed(skip, [png(5)])


async def test_the_cache_is_used_as_the_request_says(bench: Bench) -> None:
    """Bypassed it is neither asked nor told; refreshed it is told again."""
    assert "miss" == (await bench.embedder.embed(EmbedRequest("toy", cache="bypass"), [png()])).embeddings[0].cache
    assert 0 == bench.cache.size
    for cache, expected in (("use", "miss"), ("refresh", "miss"), ("bypass", "miss"), ("use", "hit")):
        answer = await bench.embedder.embed(EmbedRequest("toy", cache=cache), [png()])  # type: ignore[arg-type]
        assert expected == answer.embeddings[0].cache
    assert len(bench.server.calls) == 4


async def test_a_version_is_asked_by_its_number_or_not_at_all(bench: Bench) -> None:
    """No other version answers in its place; the error lists those there are."""
    assert 1 == (await bench.embedder.embed(EmbedRequest("toy", version=1), [png()])).card.version
    with pytest.raises(UnknownVersion, match=r"no version 2\. Available: 1"):
        await bench.embedder.embed(EmbedRequest("toy", version=2), [png()])
    bench.server.next = card(version=2)
    with pytest.raises(UnknownVersion, match=r"no version 1\. Available: 2"):
        await bench.embedder.embed(EmbedRequest("toy", version=1), [png(4)])


async def test_a_request_is_told_how_long_its_stages_took(bench: Bench) -> None:
    """Every stage that it went through, and no other."""
    miss, hit = Timings(unobserved), Timings(unobserved)
    await bench.embedder.embed(EmbedRequest("toy"), [png()], miss)
    await bench.embedder.embed(EmbedRequest("toy"), [png()], hit)
    assert {"hash", "cache", "decode", "infer"} == set(miss.seconds)
    assert {"hash", "cache"} == set(hit.seconds)


async def test_images_are_counted_once_with_their_bytes(bench: Bench) -> None:
    """Known or not, and however large: what is hashed before the embedder is asked is not counted again."""
    small, large = png(), png(2) + bytes(1 << 20)
    timings = Timings(unobserved)
    digests = bench.embedder.digests([small], timings)
    await bench.embedder.embed(EmbedRequest("toy"), [small], timings, digests)
    assert bench.embedder.digests([large], timings) is None
    await bench.embedder.embed(EmbedRequest("toy"), [large, small], timings)
    value = bench.metrics.registry.get_sample_value
    assert (3, 2 * len(small) + len(large)) == (value("microtome_images_total"), value("microtome_image_bytes_total"))


class Finding(NoLeases):
    """Leases of gateways of which another one has just stored the vector; it answers when told."""

    seconds = 60.0

    def __init__(self, value: bytes) -> None:
        self._value = value
        self.asked, self.gate = asyncio.Event(), asyncio.Event()

    async def acquire(self, keys: Sequence[str]) -> Acquired:
        """Find all that is asked for."""
        self.asked.set()
        await self.gate.wait()
        return Acquired(dict.fromkeys(keys, self._value))


async def test_refresh_never_takes_what_another_request_found() -> None:
    """Work of a request that uses the cache may end with a cached vector; who wants a new one does not join it."""
    leases = Finding(np.full(3, 7, "<f4").tobytes())
    with ThreadPoolExecutor(2) as decoders:
        bench = Bench(decoders, leases)
        using = asyncio.create_task(bench.embedder.embed(EmbedRequest("toy"), [png()]))
        await leases.asked.wait()
        refresh = EmbedRequest("toy", cache="refresh")
        bench.server.gate.clear()
        first = asyncio.create_task(bench.embedder.embed(refresh, [png()]))
        await bench.server.called(1)
        others = [
            asyncio.create_task(bench.embedder.embed(request, [png()])) for request in (refresh, EmbedRequest("toy"))
        ]
        await asyncio.sleep(0)
        leases.gate.set()
        bench.server.gate.set()
        fresh, (second, third), used = await first, await asyncio.gather(*others), await using
    assert (7, "coalesced") == (used.embeddings[0].vector[0], used.embeddings[0].cache)
    assert ["miss", "coalesced", "coalesced"] == [each.embeddings[0].cache for each in (fresh, second, third)]
    assert all(each.embeddings[0].vector[0] != 7 for each in (fresh, second, third))
    assert 1 == len(bench.server.calls)


async def test_an_interactive_request_that_joins_a_bulk_one_takes_its_image_out_of_the_queue() -> None:
    """Behind the bulk images of which none is sent: the joined one is, and both requests get its vector."""
    bulk = EmbedRequest("toy", priority="bulk")
    with ThreadPoolExecutor(1) as decoders:
        bench = Bench(decoders, slots=1)
        bench.server.gate.clear()
        run = asyncio.create_task(bench.embedder.embed(bulk, [png(seed) for seed in range(6)]))
        await bench.server.called(1)
        joined = asyncio.create_task(bench.embedder.embed(EmbedRequest("toy"), [png(5)]))
        await bench.server.called(2)
        assert [True, False] == bench.server.bulk
        bench.server.gate.set()
        first, second = (await joined).embeddings[0], (await run).embeddings[-1]
    assert ("coalesced", "miss") == (first.cache, second.cache)
    np.testing.assert_array_equal(first.vector, second.vector)


async def test_what_bulk_requests_leave_of_the_places_is_for_others(bench: Bench) -> None:
    """A quarter; beyond three quarters bulk requests are refused, and all is given back at the end."""
    bench.server.gate.clear()
    bulk = EmbedRequest("toy", priority="bulk")
    run = [asyncio.create_task(bench.embedder.embed(bulk, [png(6 * n + i) for i in range(6)])) for n in range(8)]
    await bench.server.called(1)
    with pytest.raises(Overloaded, match="of 48 images of bulk requests"):
        await bench.embedder.embed(bulk, [png(99)])
    with pytest.raises(Overloaded):
        bench.embedder.require_turn("toy", 0, bulk=True)
    bench.embedder.require_turn("toy", 0)
    other = asyncio.create_task(bench.embedder.embed(EmbedRequest("toy"), [png(99)]))
    for task in run[1:]:
        task.cancel()
    await asyncio.wait(run[1:])
    bench.server.gate.set()
    await asyncio.gather(run[0], other)
    bench.embedder.require_room(48, bulk=True)
    assert 64 == bench.budget.left()
