"""The options of a request, wherever they stand; whatever comes is read or refused with its name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadRequest
from service.http.parameters import OPTIONS, EmbedOptions, read_options

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(sorted(OPTIONS)) | st.text(max_size=20)


def test_the_query_and_the_body_say_the_same() -> None:
    """Strings of a query and values of a body are one set of options."""
    query = [("model", "m"), ("version", "3"), ("output", "a"), ("output", "b"), ("normalize", "true")]
    fields = {"model": "m", "version": 3, "output": ["a", "b"], "normalize": True}
    expected = EmbedOptions(model="m", version=3, output=("a", "b"), normalize=True)
    assert expected == read_options(query, {})
    assert expected == read_options([], fields)
    assert expected == read_options(query[:2], {"output": ["a", "b", "a"], "normalize": True, "dimensions": None})


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("normalise=true", "Did you mean `normalize`"),
        ("normalize=yes", "`normalize` to be true or false; received 'yes'"),
        ("version=0", "`version` to be a whole number from 1"),
        ("version=1e3", "`version`"),
        ("dimensions=-4", "`dimensions`"),
        ("encoding=float64", "one of float, base64"),
        ("cache=no", "one of use, refresh, bypass"),
        ("on_error=ignore", "one of fail, skip"),
        ("model=", "`model` to be a name"),
        ("model=a&model=b", "`model` once"),
        ("output=", "`output`"),
    ],
)
def test_a_wrong_option_is_named(query: str, words: str) -> None:
    """The message names the option, what it expects and what came, or the name that was meant."""
    with pytest.raises(BadRequest) as error:
        read_options([tuple(pair.split("=")) for pair in query.split("&")], {})  # type: ignore[misc]
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"), [("normalize", 1), ("version", True), ("dimensions", 1.5), ("output", []), ("output", [1])]
)
def test_json_has_types(name: str, value: object) -> None:
    """In JSON a number is no switch, and a switch no number."""
    with pytest.raises(BadRequest, match=name):
        read_options([], {name: value})


def test_an_option_stands_in_one_place() -> None:
    """The same option in query and body is an error, even when both agree."""
    with pytest.raises(BadRequest, match="query string and in the body"):
        read_options([("model", "m")], {"model": "m"})


def test_cache_control_is_the_weaker_word() -> None:
    """no-cache asks for a fresh vector, unless the option says otherwise."""
    assert "refresh" == read_options([], {}, no_cache=True).cache
    assert "bypass" == read_options([("cache", "bypass")], {}, no_cache=True).cache


@given(st.lists(st.tuples(NAMES, st.text(max_size=20)), max_size=4), st.dictionaries(NAMES, JSON, max_size=3))
def test_anything_is_read_or_refused(query: list[tuple[str, str]], fields: dict[str, object]) -> None:
    """Whatever comes, the answer is options or a BadRequest, never another error."""
    try:
        options = read_options(query, fields)
    except BadRequest:
        return
    assert options.version is None or options.version >= 1
    assert all(options.output)
    assert isinstance(options.normalize, bool)
