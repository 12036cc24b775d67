"""Addresses of Redis in all their forms, and what is said of those that are none."""

from pathlib import Path

import pytest

from service.cache.redis.url import Place, place
from tests.certificates import make_certificates


@pytest.mark.parametrize(
    ("url", "expected", "options"),
    [
        ("redis://one", Place("single", (("one", 6379),)), {}),
        ("redis://:secret@one:6380/2", Place("single", (("one", 6380),), database=2), {"password": "secret"}),
        ("REDIS://app:a:b%2f@one?db=3", Place("single", (("one", 6379),), database=3), {}),
        ("unix:///run/val%20key.sock?db=1", Place("single", path="/run/val key.sock", database=1), {}),
        ("unix://:secret@/run/valkey.sock", Place("single", path="/run/valkey.sock"), {"password": "secret"}),
        ("rediss://one?ssl_min_version=1.2", Place("single", (("one", 6379),), tls=True), {}),
        (
            "redis+sentinel://user:p%40ss@one,two:5000/vectors/3",
            Place("sentinel", (("one", 26379), ("two", 5000)), service="vectors", database=3),
            {"username": "user", "password": "p@ss"},
        ),
        (
            "rediss+sentinel://[fd00::1]:5000/vectors?sentinel_password=x",
            Place("sentinel", (("fd00::1", 5000),), service="vectors", tls=True),
            {},
        ),
        (
            "redis+cluster://:secret@one,two:7000/",
            Place("cluster", (("one", 6379), ("two", 7000))),
            {"password": "secret"},
        ),
    ],
)
def test_an_address_is_taken_apart(url: str, expected: Place, options: dict[str, object]) -> None:
    """Hosts with and without port, IPv6, login, service, database, options."""
    found = place(url)
    kept = ("kind", "nodes", "path", "service", "database", "tls")
    assert [getattr(expected, name) for name in kept] == [getattr(found, name) for name in kept]
    assert options.items() <= found.options.items()
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://secret@one", "begins with one of redis://"),
        ("redis:/secret@one", "begins with one of redis://"),
        # What is not escaped in a password.
        *(
            (f"{scheme}://:sec{mark}ret@one/vectors", "%XX")
            for scheme in ("redis", "redis+sentinel")
            for mark in "/?#% "
        ),
        *((f"redis+cluster://user:sec{mark}ret@one", "%XX") for mark in "/?#"),
        ("redis://user:12?secret=1@one", "%XX"),
        ("redis://:sec%zzret@one", "hexadecimal"),
        ("redis://:secret%ff@one", "UTF-8"),
        ("redis://[secret@one", "USER:PASSWORD"),
        ("redis://secret@one", "USER:PASSWORD"),
        # Hosts, ports, databases.
        ("redis://", "HOST:PORT"),
        ("redis://:secret@", "HOST:PORT"),
        ("redis://:secret@one:port", "HOST:PORT"),
        ("redis://:secret@one:", "HOST:PORT"),
        ("redis://:secret@one:0", "from 1 to 65535"),
        ("redis://:secret@one:65536", "from 1 to 65535"),
        ("redis://:secret@one,two", r"only with \+sentinel or \+cluster"),
        ("redis://:secret@one/first", "number of a database"),
        ("redis://:secret@one/-1", "number of a database"),
        ("redis://:secret@one?db=first", "value of the option db"),
        ("redis+sentinel://:secret@one", "SERVICE"),
        ("redis+sentinel://:secret@one/vectors/first", "number of a database"),
        ("redis+sentinel://:secret@/vectors", "HOST:PORT"),
        ("redis+sentinel://:secret@one:port/vectors", "HOST:PORT"),
        ("redis+cluster://:secret@one/1", "without a path"),
        ("redis+cluster://:secret@one?db=1", "without a path"),
        ("redis+cluster://:secret@one,,two", "HOST:PORT"),
        ("unix://:secret@run/valkey.sock", "unix:///PATH"),
        ("unix://", "unix:///PATH"),
        # Options.
        ("redis://:secret@one?ssl_cert_reqs=none", "the option ssl_cert_reqs only with rediss://"),
        ("redis://:secret@one?sockt_keepalive=yes", "the option sockt_keepalive among .*socket_keepalive"),
        ("redis://:secret@one?sentinel_password=x", "each option among"),
        ("redis://:secret@one?socket_timeout=1", "the option socket_timeout among"),
        ("redis://one?password=a&secret=b", "each option among"),
        ("redis://one?SeCret=b", "each option among"),
        ("redis://:secret@one?protocol=3", "2 as the value of the option protocol"),
        ("redis://:secret@one?socket_keepalive=maybe", "true or false as the value of the option socket_keepalive"),
        ("rediss://:secret@one?ssl_cert_reqs=never", "none, optional or required"),
        ("rediss://:secret@one?ssl_min_version=1.1", "1.2 or 1.3"),
        ("rediss://:secret@one?ssl_ca_certs=/nowhere", "the option ssl_ca_certs: FileNotFoundError"),
        ("rediss+cluster://:secret@one?ssl_ciphers=nix", "the option ssl_ciphers: SSLError"),
        ("rediss+sentinel://:secret@one/vectors?ssl_keyfile=x", "ssl_certfile beside ssl_keyfile"),
    ],
)
def test_what_is_no_address_is_refused_without_its_secrets(url: str, words: str) -> None:
    """One sentence says what was expected, and shows nothing that may be a part of a password."""
    with pytest.raises(ValueError, match=words) as refused:
        place(url)
    told = str(refused.value).lower()
    assert "\n" not in told
    assert not {"secret", "ret", "sec"} & set(told.replace("_", " ").replace("=", " ").split())
    assert "secret" not in told


def test_sentinels_have_a_login_of_their_own_and_share_tls(tmp_path: Path) -> None:
    """The servers' password is not told to the Sentinels; certificates hold for both."""
    make_certificates(tmp_path)
    ca = str(tmp_path / "ca.pem")
    found = place(f"rediss+sentinel://:s3@one/vectors/1?sentinel_password=other&ssl_ca_certs={ca}")
    assert {"password": "s3", "ssl_ca_certs": ca} == found.options
    assert {"password": "other", "ssl_ca_certs": ca} == found.sentinel_options
