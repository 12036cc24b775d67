"""Which model and which of its layers a request of another contract means.

Their requests name a model and nothing else. Here a model has several outputs, each cut at another layer, so the name
may be followed by one: `lite0` is its default output, `lite0/block5` that one. Neither kind of name has a slash in it.
"""

from collections.abc import Mapping

from service.core.requests import ALL, EmbedRequest
from service.errors import BadRequest
from service.http.parameters import read_options

FIELDS = ("model", "output", "layer", "version", "cache")
"""What is read here of a request; all but `model` are ours, and all may be left out."""


def asked(fields: Mapping[str, object], default_model: str) -> EmbedRequest:
    """Read model, output, version and use of the cache.

    Args:
        fields: of the request.
        default_model: answers when none is named.

    Raises:
        BadRequest: a value that does not fit, two outputs, or one named in two places.
    """
    options = read_options((), {name: fields[name] for name in ("model", "version", "cache") if name in fields})
    model, slash, suffix = (options.model or default_model).partition("/")
    named = [*([suffix] if slash else []), *(fields[name] for name in ("output", "layer") if name in fields)]
    if len(named) > 1:
        raise BadRequest("Expected the output in one place: after the model's name (`model/output`), or as `output`.")
    outputs = read_options((), {"output": named[0]}).output if named else ()
    if len(outputs) > 1 or outputs == (ALL,):
        raise BadRequest("Expected one output, since an answer has one vector for each image; ask once for each.")
    return EmbedRequest(model, options.version, outputs, options.cache)
