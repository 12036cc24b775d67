"""How images are asked for: what a query string and an Accept header mean, read once for all who ask so."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from starlette.datastructures import QueryParams
from starlette.types import Scope

from service.core.requests import EmbedRequest
from service.errors import ServiceError
from service.http.head import head
from service.http.negotiation import Form, chosen
from service.http.parameters import EmbedOptions, Encoding, read_options

_KEPT = 256
_LONGEST = 512
"""Bytes of a query string and an Accept header together above which what they mean is not remembered."""


class Way(NamedTuple):
    """What is asked of the core, and how the answer is written."""

    request: EmbedRequest
    options: EmbedOptions
    form: Form
    encoding: Encoding


class Ways:
    """Reads ways of asking, and remembers the plain ones."""

    def __init__(self, default_model: str) -> None:
        """Ask `default_model` where a request names none."""
        self._default_model = default_model
        self._plain = lru_cache(_KEPT)(self._read_plain)

    def read(self, scope: Scope, fields: Mapping[str, object], *, no_cache: bool = False) -> Way:
        """Read the way of one request: from its head, and from the fields of its body if that is JSON.

        Raises:
            BadRequest: an unknown name, a value that does not fit, an option given twice.
            NotAcceptable: no form of answer fits.
        """
        options = read_options(query_items(scope["query_string"]), fields, no_cache=no_cache)
        return self._way(options, head(scope).get(b"accept", b"").decode("latin-1"))

    def plain(self, scope: Scope) -> Way | None:
        """Return the way of a request that has no options but those of its query, if it asks for what a cache can have.

        None also where something is wrong with it, which `read` says.
        """
        query, accept = scope["query_string"], head(scope).get(b"accept", b"")
        return self._plain(query, accept) if len(query) + len(accept) <= _LONGEST else None

    def _read_plain(self, query: bytes, accept: bytes) -> Way | None:
        try:
            way = self._way(read_options(query_items(query), {}), accept.decode("latin-1"))
        except ServiceError:
            return None
        return way if way.request.cache == "use" and way.request.version is None else None

    def _way(self, options: EmbedOptions, accept: str) -> Way:
        form, encoding = chosen(accept, options)
        model = options.model or self._default_model
        request = EmbedRequest(model, options.version, options.output, options.cache, options.on_error)
        return Way(request, options, form, encoding)


def query_items(query: bytes) -> Iterable[tuple[str, str]]:
    """Return the names and values of a query string."""
    return QueryParams(query).multi_items() if query else ()
