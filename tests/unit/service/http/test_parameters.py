"""The parameters of a request, in the query, the body and the head: each is read, or refused by its name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from microtome.errors import BadRequest, NotAcceptable
from service.http.negotiation import JSON as JSON_FORM
from service.http.negotiation import MSGPACK
from service.http.parameters import OPTIONS, EmbedOptions, ParameterReader, read_options

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
        ("priority=low", "one of interactive, bulk"),
        ("model=", "`model` to be a name"),
        ("model=a&model=b", "`model` once"),
        ("output=", "`output`"),
        ("heat=yes", "`heat` to be true or false"),
        ("heat=true&normalize=true", "`heat` without `normalize`"),
        ("heat=true&dimensions=2", "`heat` without `normalize` and `dimensions`"),
        ("heat=true&encoding=int8", "an encoding other than int8 and binary"),
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


def scope(query: str = "", accept: str | None = None) -> Scope:
    """The head of a request."""
    return {"query_string": query.encode(), "headers": [] if accept is None else [(b"accept", accept.encode())]}


def test_equal_heads_have_the_same_parameters() -> None:
    """The default model where none is named, the form by Accept, the options of the query; parsed once."""
    reader = ParameterReader("toy")
    for head in (scope(), scope("output=a&output=b&normalize=true", "application/msgpack"), scope("model=other")):
        assert reader.read(head) is reader.read({**head})
    assert "toy" == reader.read(scope()).request.model
    assert "other" == reader.read(scope("model=other")).request.model
    assert MSGPACK == reader.read(scope("", "application/msgpack")).form


def test_errors_are_raised_each_time() -> None:
    """A wrong option and a form that does not fit."""
    reader = ParameterReader("toy")
    for _ in range(2):
        with pytest.raises(BadRequest):
            reader.read(scope("nix=1"))
        with pytest.raises(NotAcceptable):
            reader.read(scope("", "text/html"))


def test_fields_of_a_body_are_added_to_those_of_the_query() -> None:
    """And an option may stand in one of the two."""
    reader = ParameterReader("toy")
    both = reader.read(scope("normalize=true"), {"dimensions": 2})
    assert (True, 2) == (both.options.normalize, both.options.dimensions)
    assert reader.read(scope("normalize=true")).options.dimensions is None
    with pytest.raises(BadRequest):
        reader.read(scope("normalize=true"), {"normalize": True})


def test_what_is_cached_is_bounded() -> None:
    """Long heads are parsed each time."""
    reader = ParameterReader("toy")
    long = scope("", "application/json" + ";x" * 300)
    assert reader.read(long) is not reader.read(long)
    for number in range(1, 2000):
        reader.read(scope(f"dimensions={number}"))
    assert 256 == reader._cached.cache_info().currsize


def test_outputs_of_a_query_are_counted() -> None:
    """As many as any backbone has layers, in one pass: a query of 65 kB held the event loop for half a second."""
    reader = ParameterReader("toy")

    def read(count: int) -> tuple[str, ...]:
        query = "&".join(f"output=layer{number}" for number in range(count)).encode()
        return reader.read({"query_string": query, "headers": []}).request.outputs

    assert 1000 == len(read(1000))
    for count in (1001, 7200):
        with pytest.raises(BadRequest, match=r"1000|1020"):
            read(count)


@pytest.mark.parametrize("digits", ["9" * 20, "9" * 5000, "0" * 5000, "-1", "+1", "1_0", "\u0661"])
def test_numbers_of_many_digits_are_refused(digits: str) -> None:
    """Python itself raises for more than 4,300 of them."""
    for name in ("version", "dimensions"):
        with pytest.raises(BadRequest, match=f"Expected `{name}` to be a whole number") as error:
            read_options([(name, digits)], {})
        assert len(str(error.value)) < 200


def test_an_accept_header_of_any_length_is_read_in_part() -> None:
    """What follows 2,000 characters counts for nothing."""
    with pytest.raises(NotAcceptable):
        ParameterReader("toy").read({"query_string": b"", "headers": [(b"accept", b"a/b;q=1," * 8000)]})
    long = "application/json;q=0.5," + " " * 2000 + "application/msgpack"
    assert ParameterReader("toy").read({"query_string": b"", "headers": [(b"accept", long.encode())]}).form is JSON_FORM
