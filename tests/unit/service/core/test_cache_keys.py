"""A vector's name changes with everything that can change the vector."""

from hypothesis import given
from hypothesis import strategies as st

from service.core.cache_keys import image_digest, vector_key

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,20}", fullmatch=True)
fingerprints = st.binary(min_size=32, max_size=32).map(lambda raw: f"sha256:{raw.hex()}")


@given(st.tuples(fingerprints, names, st.binary()), st.tuples(fingerprints, names, st.binary()))
def test_keys_are_equal_only_for_equal_ingredients(one: tuple[str, str, bytes], other: tuple[str, str, bytes]) -> None:
    """Another fingerprint, output or image is another key; the same ones are the same key."""
    keys = [vector_key(fingerprint, output, image_digest(image)) for fingerprint, output, image in (one, other)]
    assert (one == other) == (keys[0] == keys[1])


@given(fingerprints, names, st.binary())
def test_one_changed_ingredient_changes_the_key(fingerprint: str, output: str, image: bytes) -> None:
    """Each ingredient counts for itself."""
    key = vector_key(fingerprint, output, image_digest(image))
    assert key not in {
        vector_key("sha256:" + "0" * 64, output, image_digest(image)) if fingerprint[7:] != "0" * 64 else None,
        vector_key(fingerprint, output + "x", image_digest(image)),
        vector_key(fingerprint, output, image_digest(image + b"\0")),
    }
