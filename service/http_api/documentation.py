"""The parts of the OpenAPI document that FastAPI cannot read off a route."""

from typing import Any

from service.http_api.problems import MEDIA_TYPE
from service.http_api.schemas import Problem

_BINARY = {"type": "string", "format": "binary"}

EMBED_BODY: dict[str, Any] = {
    "required": True,
    "description": "One image as it is, or several as file parts. Formats are recognised by their bytes.",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "array", "items": _BINARY}},
            }
        },
        "image/*": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
    },
}

_MEANING = {
    400: "An option or the form of the body is wrong.",
    404: "No such model or output; the detail names those there are.",
    413: "Too many bytes, pixels or images.",
    422: "Not an image that we read, or a truncated or corrupt one; the detail says which.",
    429: "More work in flight than the limits allow; see Retry-After.",
    502: "The model server answered with something that cannot be right.",
    503: "The model server is down, or the model not ready; see Retry-After.",
    504: "No answer in the time allowed.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problem-details answers that a route can give."""
    schema = Problem.model_json_schema()
    return {
        status: {"description": _MEANING[status], "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses
    }
