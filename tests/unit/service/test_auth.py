"""API keys: who is known, what is written down, and nothing said that should not be."""

from hashlib import sha256

import pytest

from microtome.errors import Unauthenticated
from service.auth import Keyring, read_keys


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
