"""What comes back from Redis is what was stored there, or nothing."""

from collections.abc import Callable
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cache.redis.cache import Seal

SECRET = Seal(b"of these gateways")
VECTORS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20)


@pytest.mark.parametrize("seal", [Seal(), SECRET], ids=["checksum", "HMAC"])
@given(key=st.text(), numbers=VECTORS, data=st.data())
def test_only_the_sealed_value_of_this_key_is_opened(
    seal: Seal, key: str, numbers: list[float], data: st.DataObject
) -> None:
    """A value opens under its own key; truncated, altered, or under another key it does not."""
    value = np.array(numbers, "<f4").tobytes()
    sealed = seal.wrap(key, value)
    assert seal.unwrap(key, sealed) == value
    assert seal.unwrap(key + "x", sealed) is None
    cut = data.draw(st.integers(0, len(sealed) - 1))
    assert seal.unwrap(key, sealed[:cut]) is None
    flipped = bytearray(sealed)
    flipped[cut] ^= 1 << data.draw(st.integers(0, 7))
    assert seal.unwrap(key, bytes(flipped)) is None


@pytest.mark.parametrize("other", [Seal(), Seal(b"of other gateways")], ids=["checksum", "HMAC"])
def test_with_a_secret_no_value_is_opened_that_another_sealed(other: Seal) -> None:
    """Neither opens what the other made, and each has entries of its own."""
    value = np.ones(4, "<f4").tobytes()
    assert SECRET.unwrap("k", other.wrap("k", value)) is None
    assert other.unwrap("k", SECRET.wrap("k", value)) is None
    assert SECRET.name("k") != other.name("k")


def test_without_a_secret_entries_are_as_earlier_releases_made_them() -> None:
    """A warm cache stays warm: eight bytes of SHA-256 over key and value, under the key itself."""
    value = np.ones(2, "<f4").tobytes()
    assert Seal().wrap("mt1:k", value) == sha256(b"mt1:k" + value).digest()[:8] + value
    assert Seal().name("mt1:k") == "mt1:k"


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("seal", [Seal(), SECRET], ids=["checksum", "HMAC"])
@pytest.mark.parametrize(
    "form",
    [lambda x: np.array([1, x], "<f4").tobytes(), lambda x: np.array([1, x], "<f2").tobytes() + b"h"],
    ids=["float32", "float16"],
)
def test_what_is_not_finite_is_no_vector(seal: Seal, form: Callable[[float], bytes], number: float) -> None:
    """However well it is sealed: it is a miss."""
    assert seal.unwrap("k", seal.wrap("k", form(number))) is None
    assert seal.unwrap("k", seal.wrap("k", form(2.0))) is not None


def test_an_exponent_cannot_make_numbers_infinite() -> None:
    """A forged float16 value whose exponent takes its numbers beyond float32 is a miss."""
    forged = np.ones(2, "<f2").tobytes() + (-(1 << 15)).to_bytes(2, "little", signed=True) + b"s"
    assert Seal().unwrap("k", Seal().wrap("k", forged)) is None
