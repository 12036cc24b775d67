"""The first tier keeps what is used and never grows beyond its bound."""

from hypothesis import given
from hypothesis import strategies as st

from service.cache.memory import ENTRY_OVERHEAD, MemoryCache


async def test_the_least_recently_used_leaves_first() -> None:
    """Reading an entry keeps it; the one that was not read makes room."""
    cache = MemoryCache(2 * (ENTRY_OVERHEAD + 4))
    await cache.put_many({"a": b"1234", "b": b"1234"})
    await cache.get_many(["a"])
    await cache.put_many({"c": b"1234"})
    assert [b"1234", None, b"1234"] == await cache.get_many(["a", "b", "c"])


@given(st.lists(st.dictionaries(st.sampled_from("abcdefgh"), st.binary(max_size=2000), max_size=4), max_size=20))
async def test_size_is_the_sum_of_what_is_held_and_within_the_bound(writes: list[dict[str, bytes]]) -> None:
    """After any writes, overwriting ones too, the count of bytes is right and the bound holds."""
    cache = MemoryCache(3000)
    for entries in writes:
        await cache.put_many(entries)
        held = [value for value in await cache.get_many("abcdefgh") if value is not None]
        assert cache.size == sum(len(value) + ENTRY_OVERHEAD for value in held) <= 3000
