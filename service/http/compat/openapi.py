"""The OpenAPI document of other systems' routes, whose bodies are read and written by hand."""

from collections.abc import Collection, Mapping
from typing import Any

from service.http.openapi import RED_PNG

PHOTO = f"data:image/png;base64,{RED_PNG}"
"""Example image of the interactive documentation."""

TEXT: Mapping[str, Any] = {"type": "string"}
WHOLE: Mapping[str, Any] = {"type": "integer", "minimum": 1}
COUNT: Mapping[str, Any] = {"type": "integer", "minimum": 0}
NUMBERS: Mapping[str, Any] = {"type": "array", "items": {"type": "number"}}
VECTOR: Mapping[str, Any] = {"anyOf": [NUMBERS, TEXT], "description": "Numbers, or base64 where that was asked for."}

OURS: Mapping[str, Mapping[str, Any]] = {
    "model": {
        **TEXT,
        "description": "`model`, or `model/output` for one of its layers; without it the server's first.",
    },
    "output": {**TEXT, "description": "Which layer, when it is not in the model's name."},
    "version": {**WHOLE, "description": "Which version of the model; without it the one in use."},
    "normalize": {"type": "boolean", "description": "Whether vectors get the length 1. Default: yes."},
}
"""Fields that every contract has here."""


def an_object(title: str, properties: Mapping[str, Any], required: Collection[str] | None = None) -> dict[str, Any]:
    """Describe an object by a name of its own; all its properties are required unless some are named."""
    must = list(properties if required is None else required)
    return {"title": title, "type": "object", **({"required": must} if must else {}), "properties": dict(properties)}


def an_array(items: Mapping[str, Any]) -> dict[str, Any]:
    """Describe an array."""
    return {"type": "array", "items": dict(items)}


def one_of(*names: str) -> dict[str, Any]:
    """Describe a field with a fixed set of values."""
    return {"type": "string", "enum": list(names)}


def described(  # noqa: PLR0913, PLR0917, the parts of a contract
    name: str,
    fields: Mapping[str, Mapping[str, Any]],
    example: Mapping[str, object],
    answer: Mapping[str, Any],
    error: Mapping[str, Any],
    shared: Mapping[str, Mapping[str, Any]] = OURS,
) -> dict[str, Any]:
    """Return the arguments of a route's decorator.

    Args:
        name: how the names of its types begin, such as `OpenAIEmbeddings`.
        fields: of the request with their schemas, in addition to `shared`.
        example: a complete request.
        answer: properties of a response, all of them required.
        error: the same of an error.
        shared: further fields of the request.
    """

    def json(description: str, kind: str, properties: Mapping[str, Any]) -> dict[str, Any]:
        schema = an_object(f"{name}{kind}", properties)
        return {"description": description, "content": {"application/json": {"schema": schema}}}

    body = {"schema": an_object(f"{name}Request", {**shared, **fields}, ()), "example": dict(example)}
    return {
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": body}}},
        "responses": {
            200: json("Vectors of all images.", "Answer", answer),
            "4XX": json("Something is wrong with the request, or too much is in flight (429).", "Error", error),
            "5XX": json("The model server failed, or took too long.", "Error", error),
        },
    }
