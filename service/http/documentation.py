"""The parts of the OpenAPI document that FastAPI cannot read off a route."""

from typing import Any

from service.http.disconnects import HEADER
from service.http.examples import BLUE_PNG, RED_PNG
from service.http.negotiation import MSGPACK, NPY, NPZ, ROWS
from service.http.parameters import OPTIONS
from service.http.problems import MEDIA_TYPE
from service.http.schemas import EmbedAnswer, Problem

_BINARY = {"type": "string", "format": "binary"}
_ITEM = {
    "oneOf": [
        {"type": "object", "required": [form], "additionalProperties": False, "properties": {form: {"type": "string"}}}
        for form in ("b64", "data_uri", "url")
    ]
}

_JSON_BODY: dict[str, Any] = {
    "schema": {
        "type": "object",
        "additionalProperties": False,
        "oneOf": [{"required": ["image"]}, {"required": ["images"]}],
        "properties": {
            "image": {"type": "string", "description": "base64, or a data URI."},
            "images": {"type": "array", "minItems": 1, "items": _ITEM},
            **{name: {**option.schema, "description": option.help} for name, option in OPTIONS.items()},
        },
    },
    "examples": {
        "one": {"summary": "One image as base64", "value": {"image": RED_PNG}},
        "several": {
            "summary": "Two images, unit vectors, bad ones skipped",
            "value": {
                "images": [{"b64": RED_PNG}, {"data_uri": f"data:image/png;base64,{BLUE_PNG}"}],
                "normalize": True,
                "on_error": "skip",
            },
        },
    },
}

EMBED_REQUEST: dict[str, Any] = {
    "parameters": [
        *(
            {"name": name, "in": "query", "required": False, "schema": dict(option.schema), "description": option.help}
            for name, option in OPTIONS.items()
        ),
        {
            "name": HEADER,
            "in": "header",
            "required": False,
            "schema": {"type": "number", "exclusiveMinimum": 0},
            "description": "Seconds that the answer may take; no more than the server's own deadline.",
        },
    ],
    "requestBody": {
        "required": True,
        "description": "One image as it is, several as file parts, or JSON. Formats are recognised by their bytes.",
        "content": {
            "application/json": _JSON_BODY,
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
    },
}

_MEANING = {
    400: "An option or the form of the body is wrong.",
    401: "No API key, or one that is not known here.",
    403: "Images are not fetched from this address.",
    404: "No such model, version or output; the detail names those there are.",
    406: "No form of answer fits the Accept header, the encoding and the outputs asked for.",
    408: "The body did not come, or not fast enough.",
    413: "Too many bytes, pixels or images.",
    422: "Not an image that we read, or a truncated or corrupt one; the detail says which.",
    429: "More work in flight than the limits allow; see Retry-After.",
    502: "The model server answered with something that cannot be right.",
    503: "The model server is down, or the model not ready; see Retry-After.",
    504: "No answer in the time allowed.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problem-details answers that a route can give."""
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    return {
        status: {"description": _MEANING[status], "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses
    }


def _answer(description: str) -> dict[str, Any]:
    binary = {form.media_type: {"schema": _BINARY} for form in (ROWS, NPY, NPZ, MSGPACK)}
    headers = {
        "X-Model": "Which model answered.",
        "X-Model-Version": "Which version of it.",
        "X-Fingerprint": "Names everything that can move a vector.",
        "X-Cache": "hit, miss or coalesced when all vectors were, else mixed.",
        "Server-Timing": "Milliseconds by stage.",
        "X-Shape": "Of binary rows: rows and columns.",
        "X-Dtype": "Of binary rows: float32, float16, int8 or uint8 (packed bits), little-endian.",
        "X-Index": "Of binary rows, when images were skipped: which images they belong to.",
    }
    described = {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}
    return {"description": description, "content": binary, "headers": described, "model": EmbedAnswer}


EMBED_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: _answer("Vectors of all images."),
    207: _answer("Vectors of some images; `errors` says what is wrong with the others. With `on_error=skip` only."),
    **problems(*_MEANING),
}
