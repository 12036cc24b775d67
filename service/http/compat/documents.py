"""JSON bodies of other contracts: an object, none of whose fields is unknown."""

from collections.abc import Collection, Mapping

import orjson

from service.errors import BadRequest
from service.http.parameters import unknown_name


def document(body: bytes, known: Collection[str], ignored: Collection[str] = ()) -> Mapping[str, object]:
    """Read a JSON object, without the fields that are null: in JSON null is the same as leaving out.

    Args:
        body: as it came.
        known: fields that mean something here.
        ignored: fields that clients send and that mean nothing for images; they are left out.

    Raises:
        BadRequest: no JSON, no object, or a field that is neither: a misspelt option would otherwise be ignored in
            silence, and its vectors be stored for years.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"Expected a JSON object as the body, received what is no JSON: {error}.") from None
    if not isinstance(value, dict):
        raise BadRequest("Expected a JSON object as the body, received JSON that is no object.")
    for name in value:
        if name not in known and name not in ignored:
            raise unknown_name(name, known)
    return {name: field for name, field in value.items() if field is not None and name in known}


def choice(fields: Mapping[str, object], name: str, choices: Collection[str], default: str) -> str:
    """Read a field that has one of some values.

    Raises:
        BadRequest: it has another.
    """
    value = fields.get(name, default)
    if not isinstance(value, str) or value not in choices:
        raise BadRequest(f"Expected `{name}` to be one of {', '.join(choices)}; received {str(value)[:80]!r}.")
    return value
