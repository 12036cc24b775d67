"""Which form of answer a request gets: the one it likes best (Accept, RFC 9110 section 12.5.1) of those that fit."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from service.errors import NotAcceptable
from service.http.parameters import EmbedOptions, Encoding


@dataclass(frozen=True, slots=True)
class Form:
    """One form of answer.

    Attributes:
        encodings: in which numbers can be written in it; the first when the request names none.
        several: whether it holds vectors of several outputs.
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
"""By our own preference, for callers who have none."""

_ALIASES = {"application/x-msgpack": MSGPACK.media_type, "application/vnd.msgpack": MSGPACK.media_type}


def chosen(accept: str, options: EmbedOptions) -> tuple[Form, Encoding]:
    """Choose the form of the answer, and how numbers are written in it.

    Args:
        accept: the request's Accept header, empty when it has none.
        options: the encoding and the outputs asked for have to fit.

    Raises:
        NotAcceptable: nothing fits.
    """
    several = len(options.output) > 1 or options.output == ("all",)
    for form in _accepted(accept):
        if (form.several or not several) and (options.encoding is None or options.encoding in form.encodings):
            return form, options.encoding or form.encodings[0]
    raise NotAcceptable(
        f"Expected an Accept header that fits; received {accept[:80] or 'none'!r} with "
        f"{'several outputs' if several else 'one output'} and encoding {options.encoding or 'unset'!r}. There are: "
        + "; ".join(f"{f.media_type} ({', '.join(f.encodings)}{'' if f.several else '; one output'})" for f in FORMS)
        + "."
    )


@lru_cache(maxsize=256)
def _accepted(accept: str) -> tuple[Form, ...]:
    """Return the forms that the caller takes, best first."""
    if not accept.strip():
        return FORMS
    ranges = list(_ranges(accept))

    def liking(form: Form) -> float:
        # The most specific range that matches decides.
        wildcard = form.media_type.partition("/")[0] + "/*"
        for pattern in (form.media_type, wildcard, "*/*"):
            found = [quality for name, quality in ranges if name == pattern]
            if found:
                return max(found)
        return 0.0

    return tuple(sorted((f for f in FORMS if liking(f) > 0), key=lambda f: -liking(f)))


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    for part in accept[:2000].split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = min(1.0, max(0.0, float(parameter[2:])))
                except ValueError:
                    quality = 0.0
        yield _ALIASES.get(name, name), quality
