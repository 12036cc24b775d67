"""Addresses of Redis in all their forms, and what is said of those that are none."""

import pytest

from service.cache.redis.client import options
from service.cache.redis.url import Place, place


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:secret@one:6379/2", Place("single", "redis://:secret@one:6379/2")),
        ("unix:///run/valkey.sock", Place("single", "unix:///run/valkey.sock")),
        (
            "redis+sentinel://user:p%40ss@one,two:5000/vectors/3",
            Place("sentinel", "redis://user:p%40ss@one/3", (("one", 26379), ("two", 5000)), "vectors"),
        ),
        (
            "rediss+sentinel://[fd00::1]:5000/vectors?sentinel_password=x",
            Place("sentinel", "rediss://[fd00::1]:5000/0?sentinel_password=x", (("fd00::1", 5000),), "vectors"),
        ),
        (
            "redis+cluster://:secret@one,two:7000/",
            Place("cluster", "redis://:secret@one/0", (("one", 6379), ("two", 7000))),
        ),
    ],
)
def test_an_address_is_taken_apart(url: str, expected: Place) -> None:
    """Hosts with and without port, IPv6, login, service, database, query."""
    assert expected == place(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://secret@one",
        "redis+sentinel://secret@one",
        "redis+sentinel://secret@one/vectors/first",
        "redis+sentinel://secret@/vectors",
        "redis+sentinel://secret@one:port/vectors",
        "redis+cluster://secret@one/1",
        "redis+cluster://secret@one,,two",
    ],
)
def test_what_is_no_address_is_refused_without_its_secrets(url: str) -> None:
    """The message says what was expected, and shows nothing of what came."""
    with pytest.raises(ValueError, match="expected") as refused:
        place(url)
    assert "secret" not in str(refused.value)


def test_sentinels_have_a_login_of_their_own_and_share_tls() -> None:
    """The servers' password is not told to the Sentinels; certificates hold for both."""
    servers, sentinels = options(place("rediss+sentinel://:s3@one/vectors/1?sentinel_password=other&ssl_ca_certs=/ca"))
    assert {"password": "s3", "db": 1, "ssl": True, "ssl_ca_certs": "/ca"} == servers
    assert {"password": "other", "ssl": True, "ssl_ca_certs": "/ca"} == sentinels
