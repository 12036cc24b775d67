"""API keys: who is known, what is written down, and nothing said that should not be."""

from collections.abc import Sequence
from hashlib import sha256

import pytest

from microtome.errors import BadRequest, Overloaded, TooManyImages, Unauthenticated
from service.auth import KeyLimits, Keyring, LocalCounts, Rate, asked_by, read_keys, with_defaults
from service.core.requests import CacheUse, EmbedRequest


def line(name: str, key: str, *limits: str) -> str:
    """Write a key down."""
    return " ".join([name, "sha256:" + sha256(key.encode()).hexdigest(), *limits])


def test_keys_of_one_name_rotate_and_share_a_budget() -> None:
    """Old and new key are the same caller, with the same limits; another name is another."""
    lines = [line("a", "old", "images=3"), line("a", "new", "images=3"), line("b", "other")]
    keyring = Keyring(read_keys(lines))
    assert keyring.identify("old") is keyring.identify("new")
    assert ("a", "b") == (keyring.identify("old").name, keyring.identify("other").name)
    assert keyring.identify("old").images is not None
    assert keyring.identify("other").images is None


@pytest.mark.parametrize("key", [None, "", "Old", "old ", "\udcff", "x" * 10_000])
def test_others_are_not_known(key: str | None) -> None:
    """No key, a wrong one, one that is no text: the caller is told, without the key."""
    with pytest.raises(Unauthenticated) as error:
        Keyring(read_keys([line("a", "old")])).identify(key)
    assert not key or key not in str(error.value)


@pytest.mark.parametrize(
    "lines",
    [
        ["a"],
        ["a hunter2"],
        ["hunter2"],
        ["a sha256:HUNTER2"],
        [line("ä", "hunter2")],
        [line("a", "x", "images=hunter2")],
        [line("a", "x", "images=0")],
        [line("a", "x", "seconds=3")],
        [line("a", "x", "images=3"), line("a", "y", "images=4")],
        [line("a", "x", "images_per_minute=0")],
        [line("a", "x", "images_per_minute=" + 5000 * "9")],
        [line("a", "x", "images=²")],
        [line("a", "x", "cache=hunter2")],
        [line("a", "x", "cache=private"), line("a", "y")],
        [line("a", "x", "priority=hunter2")],
    ],
)
def test_what_is_written_wrongly_is_not_repeated(lines: list[str]) -> None:
    """The message says which line and what was expected, never what stood there: it may be a key."""
    with pytest.raises(ValueError, match="key") as error:
        read_keys(lines)
    assert "hunter2" not in str(error.value).lower()


def test_comments_and_empty_lines_do_not_count() -> None:
    """A file of keys can be read by people."""
    assert [] == read_keys(["", "# search team", "   "])


def test_a_keys_own_limits_go_before_those_of_all() -> None:
    """What a line does not say, the defaults do."""
    (record,) = with_defaults(
        read_keys([line("a", "x", "images=3", "requests_per_minute=5", "cache=private")]),
        KeyLimits(images=100, bytes=200, requests_per_minute=300, images_per_minute=400),
    )
    assert KeyLimits(3, 200, 5, 400, private=True) == record.limits


@pytest.mark.parametrize(
    ("limits", "cache", "tenant", "used"),
    [
        ("", "use", "", "use"),
        ("", "bypass", "", "bypass"),
        ("", "private", "a", "use"),
        ("cache=private", "use", "a", "use"),
        ("cache=private", "private", "a", "use"),
        ("cache=private", "refresh", "a", "refresh"),
        ("cache=private", "bypass", "a", "bypass"),
    ],
)
def test_whose_vectors_a_request_uses(limits: str, cache: CacheUse, tenant: str, used: str) -> None:
    """Its owner's where it or its key is private, which a request cannot take back; else those that all share."""
    caller = Keyring(read_keys([line("a", "x", limits)])).identify("x")
    request = asked_by(caller, EmbedRequest("toy", cache=cache))
    assert (tenant, used) == (request.tenant, request.cache)
    request.require_tenant()


def test_private_vectors_of_no_tenant_are_refused() -> None:
    """Without keys all callers would share them."""
    with pytest.raises(BadRequest, match="Expected an API key with `cache=private`"):
        asked_by(None, EmbedRequest("toy", cache="private")).require_tenant()


class Minute:
    """A clock that is set, and a name that may embed 10 requests and 100 images a minute."""

    def __init__(self, counts: LocalCounts | None = None) -> None:
        self.now = 600.0
        self.uncounted = 0
        self.counts = counts or LocalCounts()
        limits = KeyLimits(requests_per_minute=10, images_per_minute=100)
        self.rate = Rate("a", limits, self.counts, self._count, lambda: self.now)

    def _count(self) -> None:
        self.uncounted += 1

    async def refused(self, images: int = 1) -> Overloaded:
        """Take what must be refused."""
        with pytest.raises(Overloaded) as caught:
            await self.rate.take(images)
        return caught.value


async def test_a_minute_slides() -> None:
    """The last minute counts by the part that is less than a minute ago; the time to wait is told, and is enough."""
    minute = Minute()
    for _ in range(10):
        await minute.rate.take(1)
    minute.now = 630.0
    refused = await minute.refused()
    assert ("key-requests-per-minute", 36) == (refused.reason, refused.announced_seconds)
    assert "10 requests a minute" in str(refused)
    minute.now += refused.retry_after - 0.1
    await minute.refused()
    minute.now += 0.2
    await minute.rate.take(1)
    again = await minute.refused()
    assert 5 < again.retry_after < 7


async def test_images_are_counted_beside_requests_and_a_refused_one_is_taken_back() -> None:
    """A request that is too large for the rest of a minute leaves room for a smaller one; it is not counted."""
    minute = Minute()
    await minute.rate.take(90)
    for _ in range(5):
        assert "key-images-per-minute" == (await minute.refused(20)).reason
    await minute.rate.take(10)
    assert [2, 100] == list(await minute.counts.add("a", 10, 0, 0))[:2]
    assert (await minute.refused(1)).retry_after > 0
    with pytest.raises(Overloaded):
        minute.rate.require()
    with pytest.raises(TooManyImages, match="at most 100 images"):
        await Minute().rate.take(101)


async def test_a_stream_that_is_open_needs_no_request() -> None:
    """Its images are counted as images, also when the requests of the minute are used up."""
    minute = Minute()
    for _ in range(10):
        await minute.rate.take(1)
    await minute.refused()
    await minute.rate.take(64, requests=0)
    with pytest.raises(Overloaded, match="100 images a minute"):
        await minute.rate.take(64, requests=0)


async def test_gateways_share_a_minute() -> None:
    """What one counts, the other knows."""
    here = Minute()
    there = Minute(here.counts)
    for _ in range(5):
        await here.rate.take(1)
        await there.rate.take(1)
    await here.refused()
    await there.refused()


async def test_what_cannot_be_counted_is_admitted() -> None:
    """And known."""

    class Down(LocalCounts):
        async def add(self, *_: object) -> Sequence[int]:
            return None  # type: ignore[return-value]

    minute = Minute(Down())
    for _ in range(50):
        await minute.rate.take(64)
    assert 50 == minute.uncounted


async def test_old_minutes_are_forgotten() -> None:
    """A process that counts alone keeps two minutes of each name."""
    counts = LocalCounts()
    for minute in range(100):
        await counts.add("a", minute, 1, 1)
    assert [0, 0, 1, 1] == list(await counts.add("a", 100, 0, 0))
    assert 2 == len(counts._counts)


def test_a_key_may_be_for_bulk_requests_only() -> None:
    """Whatever its requests say, interactive ones of other keys go first."""
    keyring = Keyring(read_keys([line("batch", "k", "priority=bulk", "cache=private"), line("page", "p")]))
    asked = asked_by(keyring.identify("k"), EmbedRequest("toy"))
    assert ("bulk", "batch") == (asked.priority, asked.tenant)
    assert "interactive" == asked_by(keyring.identify("p"), EmbedRequest("toy")).priority
    assert asked_by(keyring.identify("p"), EmbedRequest("toy", priority="bulk")).bulk
