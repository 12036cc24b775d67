"""Ways of asking: what a head means, remembered for those that ask for what a cache can have."""

import pytest
from starlette.types import Scope

from service.errors import BadRequest, NotAcceptable
from service.http.ways import Ways


def scope(query: str = "", accept: str | None = None) -> Scope:
    """A request's head."""
    return {"query_string": query.encode(), "headers": [] if accept is None else [(b"accept", accept.encode())]}


def test_a_plain_way_is_what_reading_the_whole_request_gives() -> None:
    """The default model where none is named, the form by Accept, the options of the query."""
    ways = Ways("toy")
    for head in (scope(), scope("output=a&output=b&normalize=true", "application/msgpack"), scope("model=other")):
        assert ways.plain(head) == ways.read(head, {})
        assert ways.plain(head) is ways.plain(dict(head))
    plain = ways.plain(scope("model=other"))
    assert plain is not None
    assert "other" == plain.request.model


@pytest.mark.parametrize(
    "query", ["cache=refresh", "cache=bypass", "version=1", "nix=1", "dimensions=x", "encoding=utf8"]
)
def test_what_no_cache_can_answer_is_no_plain_way(query: str) -> None:
    """Nor is what cannot be asked for at all, whose error is told by reading it."""
    assert Ways("toy").plain(scope(query)) is None


def test_errors_are_told_by_reading() -> None:
    """A wrong option and a form that does not fit."""
    with pytest.raises(BadRequest):
        Ways("toy").read(scope("nix=1"), {})
    with pytest.raises(NotAcceptable):
        Ways("toy").read(scope("", "text/html"), {})


def test_what_is_remembered_is_bounded() -> None:
    """Long heads are read anew each time, on the way that all requests can go."""
    ways = Ways("toy")
    assert ways.plain(scope("", "application/json")) is not None
    assert ways.plain(scope("", "application/json" + ";x" * 300)) is None
    for number in range(1, 2000):
        assert ways.plain(scope(f"dimensions={number}")) is not None
    assert 256 == ways._plain.cache_info().currsize
