"""Parse requests of other systems' contracts: JSON fields, the model and its output, images.

These contracts name a model and nothing else. Here a model has several outputs, each cut at another layer, so an output
may follow the model's name: `lite0` is the default output, `lite0/block5` another. Neither name contains a slash.
"""

from collections.abc import Collection, Mapping

from microtome.errors import BadRequest
from service.core.remote_images import Image
from service.core.requests import ALL, EmbedRequest
from service.errors import shown
from service.http.bounded_json import LongText, read_object
from service.http.json_images import from_address, from_base64, from_data_uri
from service.http.parameters import read_options, unknown_name


def is_address(text: str) -> bool:
    """Whether a string is an http(s) address."""
    return text[:8].lower().startswith(("http://", "https://"))


def is_data_uri(text: str) -> bool:
    """Whether a string is a data URI."""
    return text[:5].lower() == "data:"


def image_of(text: object, max_bytes: int) -> Image:
    """Read one image: an address, a data URI or bare base64; an error is returned, it concerns this image only."""
    if not isinstance(text, str):
        return BadRequest(f"Expected an image as a string, received {type(text).__name__}.")
    if is_address(text):
        return from_address(text)
    return from_data_uri(text, max_bytes) if is_data_uri(text) else from_base64(text, max_bytes)


MODEL_FIELDS = ("model", "output", "layer", "version", "cache", "priority")
"""The fields that `embed_request` reads; all are optional, and all but `model` are ours."""


_OPTIONS = ("model", "version", "cache", "priority")


def embed_request(fields: Mapping[str, object], default_model: str) -> EmbedRequest:
    """Read model, output, version, use of the cache and priority.

    Args:
        fields: of the request.
        default_model: the model of requests that name none.

    Raises:
        BadRequest: a value that does not fit, two outputs, or one named in two places.
    """
    options = read_options((), {name: fields[name] for name in _OPTIONS if name in fields})
    model, slash, suffix = (options.model or default_model).partition("/")
    named = [*([suffix] if slash else []), *(fields[name] for name in ("output", "layer") if name in fields)]
    if len(named) > 1:
        raise BadRequest("Expected the output in one place: after the model's name (`model/output`), or as `output`.")
    outputs = read_options((), {"output": named[0]}).output if named else ()
    if len(outputs) > 1 or outputs == (ALL,):
        raise BadRequest("Expected one output, since an answer has one vector for each image; ask once for each.")
    return EmbedRequest(model, options.version, outputs, options.cache, priority=options.priority)


def json_fields(body: bytes | bytearray, known: Collection[str], ignored: Collection[str] = ()) -> Mapping[str, object]:
    """Read a JSON object, without fields that are null.

    Args:
        body: of the request.
        known: fields that are read.
        ignored: fields that clients send and that mean nothing for images; they are left out.

    Raises:
        BadRequest: not JSON, not an object, or an unknown field: a misspelt option would otherwise be ignored, and its
            vectors be stored for years.
    """
    value = read_object(body)
    for name in value:
        if name not in known and name not in ignored:
            raise unknown_name(name, known)
    return {name: field for name, field in value.items() if field is not None and name in known}


def short(value: object, name: str) -> object:
    """Return a field that the answer repeats.

    Raises:
        BadRequest: it is no text or number, or too long to be repeated.
    """
    if isinstance(value, LongText) or not isinstance(value, str | int | float):
        raise BadRequest(f"Expected `{name}` to be text of at most 1024 bytes; received {shown(value)}.")
    return value


def choice(fields: Mapping[str, object], name: str, choices: Collection[str], default: str) -> str:
    """Read a field with a fixed set of values.

    Raises:
        BadRequest: another value.
    """
    value = fields.get(name, default)
    if not isinstance(value, str) or value not in choices:
        raise BadRequest(f"Expected `{name}` to be one of {', '.join(choices)}; received {shown(value)}.")
    return value
