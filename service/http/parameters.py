"""The parameters of POST /embed and POST /classify: of query string, Accept header and the fields of a JSON body.

An unknown name is an error that names the nearest known one: a misspelt option would otherwise be ignored, and its
vectors be stored for years.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import NamedTuple, get_args

from starlette.datastructures import QueryParams
from starlette.types import Scope

from microtome.errors import BadRequest
from microtome.regions import Region, read_regions
from service.core.classes import TOP_K, Function
from service.core.requests import (
    ALL,
    CLASSES,
    MOST_OUTPUTS,
    MOST_TEXTS,
    TEMPLATE,
    CacheUse,
    Candidates,
    EmbedRequest,
    OnError,
    Priority,
)
from service.errors import shown
from service.http.bounded_json import LongText
from service.http.middleware import headers_of
from service.http.negotiation import FORMS, JSON, Encoding, Form, chosen

TIMEOUT_HEADER = "X-Request-Timeout"
_TIMEOUT = TIMEOUT_HEADER.lower().encode()

_LARGEST_INTEGER = 2**63 - 1
_SHOWN = 80

_MOST_PAIRS = MOST_OUTPUTS + 20
"""Options of a query string: each output, and all others."""

_CACHED = 256
_CACHED_LENGTH = 512
"""Bytes of query string and Accept header together; longer ones are parsed again each time."""


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """The options of one request; None and () stand for the default of the model or of the media type."""

    model: str | None = None
    version: int | None = None
    output: tuple[str, ...] = ()
    normalize: bool = False
    dimensions: int | None = None
    heat: bool = False
    encoding: Encoding | None = None
    on_error: OnError = "fail"
    cache: CacheUse = "use"
    priority: Priority = "interactive"
    crop: tuple[Region, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassifyOptions(EmbedOptions):
    """The options of one request for classes; vectors of other outputs have those of POST /embed."""

    top_k: int = TOP_K
    min_score: float | None = None
    function: Function | None = None
    labels: tuple[str, ...] = ()
    template: tuple[str, ...] = ()


class Option(NamedTuple):
    """One option: the reader of its value, and its entry in the OpenAPI document; `json` where a body has another form.

    The entry has no `default`: generated clients would send it in the query string, beside a body that has another.
    """

    read: Callable[[object], object]
    schema: Mapping[str, object]
    help: str
    json: Mapping[str, object] | None = None


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a name")
    return value


def _number(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 19:
        value = int(value)
    # bool is a subclass of int.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST_INTEGER:
        raise ValueError("a whole number from 1 up")
    return value


def _score(value: object) -> float:
    try:
        # A bool is an int; of text, a query string has nothing else.
        number = math.nan if isinstance(value, bool) or not isinstance(value, str | int | float) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("a number")
    return number


def _switch(value: object) -> bool:
    if isinstance(value, str):
        value = {"true": True, "1": True, "false": False, "0": False}.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004, every reader raises the same error
    return value


def _names(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    if not 0 < len(values) <= MOST_OUTPUTS or not all(isinstance(name, str) and name for name in values):
        raise ValueError(f"the name of an output, up to {MOST_OUTPUTS} of them, or `all`")
    return tuple(dict.fromkeys(values))


def _words(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    # Of a long text here is the beginning only.
    if not 0 < len(values) <= MOST_TEXTS or not all(isinstance(t, str) and not isinstance(t, LongText) for t in values):
        raise ValueError(f"a short text, or up to {MOST_TEXTS} of them")
    return tuple(values)


def _one_of(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return value

    return read


def _choice(kind: object, help_: str) -> Option:
    choices = get_args(kind)
    return Option(_one_of(*choices), {"type": "string", "enum": list(choices)}, help_)


_REGION = {"type": "array", "minItems": 4, "maxItems": 4, "items": {"type": "number", "minimum": 0, "maximum": 1}}

OPTIONS: Mapping[str, Option] = {
    "model": Option(_text, {"type": "string", "minLength": 1}, "Which model; without it the server's first."),
    "version": Option(
        _number,
        {"type": "integer", "minimum": 1, "maximum": _LARGEST_INTEGER},
        "Which version of the model; without it the one in use.",
    ),
    "output": Option(
        _names,
        {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
        "Which of its outputs, repeatable; `all` for every one; without it the default output.",
    ),
    "crop": Option(
        read_regions,
        {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": r"^[0-9.eE+-]+(,[0-9.eE+-]+){3}$"}},
        "Embed this region of each image, or several, each as an image of its own: `x,y,width,height` in fractions of "
        "the upright image, repeatable; in JSON `[x, y, width, height]`, or a list of these. An image of a JSON body "
        "may have a `crop` of its own instead.",
        {"anyOf": [_REGION, {"type": "array", "minItems": 1, "items": _REGION}]},
    ),
    "normalize": Option(
        _switch,
        {"type": "boolean"},
        "Whether each vector is divided by its Euclidean length, after the cut. Default: no.",
    ),
    "dimensions": Option(
        _number,
        {"type": "integer", "minimum": 1, "maximum": _LARGEST_INTEGER},
        "Keep only so many numbers from the vector's beginning.",
    ),
    "heat": Option(
        _switch,
        {"type": "boolean"},
        "Where an output that keeps its map is active: at each position the Euclidean length over the channels, row by "
        "row, instead of the vector. Goes without `normalize`, `dimensions` and the encodings int8 and binary.",
    ),
    "encoding": _choice(
        Encoding,
        "How numbers are written: `float` or `base64` (of little-endian float32) in JSON; `float32`, `float16`, `int8` "
        "(by the model's calibrated ranges) or `binary` (signs, a bit each) in binary answers.",
    ),
    "on_error": _choice(
        OnError, "`fail` (default): one bad image fails the request. `skip`: good ones are answered, bad ones named."
    ),
    "cache": _choice(
        CacheUse,
        "`use` (default); `refresh` computes again and stores, `bypass` computes again and does not store, `private` "
        "uses vectors of this API key's owner only.",
    ),
    "priority": _choice(
        Priority,
        "`interactive` (default), or `bulk`: images that must be computed wait for those of interactive requests.",
    ),
}


CLASSIFY_OPTIONS: Mapping[str, Option] = {
    **OPTIONS,
    "output": Option(
        _names,
        OPTIONS["output"].schema,
        "Which of its outputs, repeatable; `all` for every one; without it the one that classifies. Those without "
        "classes are answered as vectors.",
    ),
    "top_k": Option(
        _number,
        {"type": "integer", "minimum": 1, "maximum": _LARGEST_INTEGER},
        f"The most labels of an image. Default: {TOP_K}.",
    ),
    "min_score": Option(_score, {"type": "number"}, "Leave out labels with a lower score."),
    "function": _choice(
        Function, "From logits to scores: `softmax`, `sigmoid`, or `none` for the logits. Default: the output's own."
    ),
    "labels": Option(
        _words,
        {"type": "array", "minItems": 1, "maxItems": MOST_TEXTS, "items": {"type": "string", "minLength": 1}},
        "What to choose among, in words, repeatable: for a model of images and text, in place of classes of its own.",
    ),
    "template": Option(
        _words,
        {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": r"\{\}"}},
        f"A text with `{{}}` where a label goes, repeatable: vectors of several are averaged. Default: `{TEMPLATE}`.",
        {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}]},
    ),
}
"""Those of POST /classify."""


def read_options(
    query: Iterable[tuple[str, str]],
    fields: Mapping[str, object],
    *,
    no_cache: bool = False,
    known: Mapping[str, Option] = OPTIONS,
) -> EmbedOptions:
    """Read the options of one request.

    Args:
        query: names and values of the query string, in order.
        fields: of the JSON body, without those that hold images.
        no_cache: whether Cache-Control has `no-cache`; an explicit `cache` option wins.
        known: the options that there are: with those of classes, `ClassifyOptions` are returned.

    Raises:
        BadRequest: an unknown name, a value that does not fit, an option given twice.
    """
    given: dict[str, object] = {}
    repeated: dict[str, list[str]] = {}
    for name, value in query:
        if name in _REPEATABLE:
            repeated.setdefault(name, []).append(value)
        elif name in given:
            raise BadRequest(f"Expected `{name[:_SHOWN]}` once, received it twice in the query string.")
        else:
            given[name] = value
    given |= repeated
    for name, field in fields.items():
        if name in given:
            raise BadRequest(f"Expected `{name[:_SHOWN]}` once, received it in the query string and in the body.")
        # JSON's null means that the option is left out.
        if field is not None or name not in known:
            given[name] = field
    kind = EmbedOptions if known is OPTIONS else ClassifyOptions
    if not given and not no_cache:
        return _DEFAULTS[kind]
    values = {name: _value(name, value, known) for name, value in given.items()}
    if no_cache:
        values.setdefault("cache", "refresh")
    options = kind(**values)  # type: ignore[arg-type]  # each value comes from its option's reader
    if options.heat and (options.normalize or options.dimensions or options.encoding in {"int8", "binary"}):
        raise BadRequest(
            "Expected `heat` without `normalize` and `dimensions`, and with an encoding other than int8 and binary."
        )
    return options


_REPEATABLE = frozenset({"output", "crop", "labels", "template"})
_DEFAULTS = {kind: kind() for kind in (EmbedOptions, ClassifyOptions)}


def _value(name: str, value: object, known: Mapping[str, Option]) -> object:
    option = known.get(name)
    if option is None:
        raise unknown_name(name, known)
    try:
        return option.read(value)
    except ValueError as error:
        raise BadRequest(f"Expected `{name}` to be {error}; received {shown(value)}.") from None


def unknown_name(name: str, known: Iterable[str]) -> BadRequest:
    """Return the error for an unknown option or field; its message names the nearest known one."""
    names = sorted(known)
    near = get_close_matches(name[:_SHOWN], names, n=1, cutoff=0.5)
    hint = f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(names)}."
    return BadRequest(f"Unknown option {name[:_SHOWN]!r}. {hint}")


def _pairs(query: bytes) -> list[tuple[str, str]]:
    """Take a query string apart.

    Raises:
        BadRequest: it has more options than there are.
    """
    given = query.count(b"&") + 1
    if given > _MOST_PAIRS:
        raise BadRequest(f"Expected at most {_MOST_PAIRS} options in the query string, received {given}.")
    return QueryParams(query).multi_items()


class Parameters(NamedTuple):
    """The parsed parameters of one request: for the core, and for the response.

    Attributes:
        no_cache: whether Cache-Control has `no-cache`.
    """

    request: EmbedRequest
    options: EmbedOptions
    form: Form
    encoding: Encoding
    no_cache: bool = False


class ParameterReader:
    """Parses the query string and Accept header; recent results are cached."""

    def __init__(self, default_model: str, *, classes: bool = False) -> None:
        """Use `default_model` where a request names none; read the options of POST /classify for `classes`."""
        self._default_model = default_model
        self._known = CLASSIFY_OPTIONS if classes else OPTIONS
        self._classes = classes
        self._cached = lru_cache(_CACHED)(self._read)

    def read(self, scope: Scope, fields: Mapping[str, object] | None = None) -> Parameters:
        """Read the parameters of a request: of its head, and of the fields of its JSON body, if there are any.

        Raises:
            BadRequest: an unknown name, a value that does not fit, an option given twice.
            NotAcceptable: no media type fits.
        """
        headers = headers_of(scope)
        query, accept = scope["query_string"], headers.get(b"accept", b"")
        no_cache = b"no-cache" in headers.get(b"cache-control", b"").lower()
        if fields or len(query) + len(accept) > _CACHED_LENGTH:
            return self._read(query, accept, no_cache, fields)
        return self._cached(query, accept, no_cache)

    def _read(
        self, query: bytes, accept: bytes, no_cache: bool, fields: Mapping[str, object] | None = None
    ) -> Parameters:
        items = _pairs(query) if query else ()
        options = read_options(items, fields or {}, no_cache=no_cache, known=self._known)
        several = len(options.output) > 1 or options.output == (ALL,)
        forms = (JSON,) if self._classes else FORMS
        form, encoding = chosen(accept.decode("latin-1"), options.encoding, several=several, forms=forms)
        model = options.model or self._default_model
        candidates = None
        if isinstance(options, ClassifyOptions):
            candidates = Candidates.read(options.labels, options.template)
        outputs = options.output or ((CLASSES,) if self._classes and candidates is None else ())
        request = EmbedRequest(
            model,
            options.version,
            outputs,
            options.cache,
            options.on_error,
            priority=options.priority,
            candidates=candidates,
        )
        return Parameters(request, options, form, encoding, no_cache)


def seconds_allowed(scope: Scope, longest: float) -> float:
    """Return the seconds that the request may take: its X-Request-Timeout, but at most `longest`.

    Raises:
        BadRequest: the header is not a number of seconds greater than 0.
    """
    header = headers_of(scope).get(_TIMEOUT)
    if header is None:
        return longest
    text = header.decode("latin-1")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise BadRequest(f"Expected {TIMEOUT_HEADER} to be seconds, such as 2.5; received {text[:40]!r}.")
    return min(seconds, longest)
