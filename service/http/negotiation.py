"""Content negotiation: Accept (RFC 9110 section 12.5.1) and the encoding decide the response's media type."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from microtome.errors import NotAcceptable

Encoding = Literal["float", "base64", "float32", "float16", "int8", "binary"]
"""How the numbers of a vector are written."""


@dataclass(frozen=True, slots=True)
class Form:
    """One media type of a response.

    Attributes:
        encodings: the encodings that it can hold; the first is the default.
        several: whether it can hold vectors of several outputs.
    """

    media_type: str
    encodings: tuple[Encoding, ...]
    several: bool


_BITS: tuple[Encoding, ...] = ("float32", "float16", "int8", "binary")

JSON = Form("application/json", ("float", "base64"), several=True)
ROWS = Form("application/octet-stream", _BITS, several=False)
NPY = Form("application/x-npy", _BITS, several=False)
NPZ = Form("application/zip", _BITS, several=True)
MSGPACK = Form("application/msgpack", (*_BITS, "float"), several=True)

FORMS = (JSON, ROWS, NPY, NPZ, MSGPACK)
"""In the order of preference for callers that state none."""

_ALIASES = {"application/x-msgpack": MSGPACK.media_type, "application/vnd.msgpack": MSGPACK.media_type}


_LONGEST_ACCEPT = 2000
"""Characters of an Accept header; what follows is not read, nor kept in the cache."""


def chosen(
    accept: str, encoding: Encoding | None, *, several: bool, forms: Sequence[Form] = FORMS
) -> tuple[Form, Encoding]:
    """Choose the media type of the response and the encoding of its numbers.

    Args:
        accept: the request's Accept header, empty if there is none.
        encoding: the encoding asked for, if any.
        several: whether vectors of several outputs are asked for.
        forms: those that the answer can have.

    Raises:
        NotAcceptable: no media type fits.
    """
    for form in _accepted(accept[:_LONGEST_ACCEPT]):
        if form in forms and (form.several or not several) and (encoding is None or encoding in form.encodings):
            return form, encoding or form.encodings[0]
    raise NotAcceptable(
        f"Expected an Accept header that fits; received {accept[:80] or 'none'!r} with "
        f"{'several outputs' if several else 'one output'} and encoding {encoding or 'unset'!r}. There are: "
        + "; ".join(f"{f.media_type} ({', '.join(f.encodings)}{'' if f.several else '; one output'})" for f in forms)
        + "."
    )


@lru_cache(maxsize=256)
def _accepted(accept: str) -> tuple[Form, ...]:
    """Return the forms that the caller accepts, best first."""
    if not accept.strip():
        return FORMS
    ranges = list(_ranges(accept))

    def quality(form: Form) -> float:
        # The most specific range that matches decides.
        wildcard = form.media_type.partition("/")[0] + "/*"
        for pattern in (form.media_type, wildcard, "*/*"):
            found = [quality for name, quality in ranges if name == pattern]
            if found:
                return max(found)
        return 0.0

    return tuple(sorted((f for f in FORMS if quality(f) > 0), key=lambda f: -quality(f)))


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    for part in accept.split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = min(1.0, max(0.0, float(parameter[2:])))
                except ValueError:
                    quality = 0.0
        yield _ALIASES.get(name, name), quality
