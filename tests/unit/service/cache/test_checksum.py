"""What comes back from Redis is what was stored there, or nothing."""

from hypothesis import given
from hypothesis import strategies as st

from service.cache.redis.cache import seal, unseal


@given(st.text(), st.binary(), st.data())
def test_only_the_sealed_value_of_this_key_is_opened(key: str, value: bytes, data: st.DataObject) -> None:
    """A value opens under its own key; truncated, altered, or under another key it does not."""
    sealed = seal(key, value)
    assert unseal(key, sealed) == value
    assert unseal(key + "x", sealed) is None
    cut = data.draw(st.integers(0, len(sealed) - 1))
    assert unseal(key, sealed[:cut]) is None
    flipped = bytearray(sealed)
    flipped[cut] ^= 1 << data.draw(st.integers(0, 7))
    assert unseal(key, bytes(flipped)) is None
