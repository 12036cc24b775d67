"""What the OpenAPI document says of the protocol's routes."""

from collections.abc import Mapping
from typing import Any

from service.http.compat.described import TEXT, described
from service.http.examples import RED_PNG

_LIST: Mapping[str, Any] = {"type": "array", "items": {"type": "object"}}

INFER = described(
    {
        "id": {**TEXT, "description": "Comes back in the answer."},
        "parameters": {"type": "object", "description": "normalize, dimensions, datatype, cache; binary_data_output."},
        "inputs": {**_LIST, "description": "One tensor, `image`: BYTES [N] (in JSON as base64) or UINT8 [N, H, W, 3]."},
        "outputs": {**_LIST, "description": "Names of the model's outputs, or `embedding`; none for the default one."},
    },
    {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [RED_PNG]}]},
    {"model_name": TEXT, "model_version": TEXT, "outputs": _LIST},
    {"error": TEXT},
    shared={},
)
"""Of `infer`; tensors may also follow the JSON as bytes, then the header says how long the JSON is."""
INFER["responses"][200]["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}


def places(model: str) -> Mapping[str, dict[str, Any]]:
    """Return a model's paths, each with what the document says of the names in it; `model` is their example."""
    named = [_in_path("model", "The model's name.", model)]
    return {
        "/models/{model}": {"parameters": named},
        "/models/{model}/versions/{version}": {
            "parameters": [*named, _in_path("version", "Which of its versions.", "1")]
        },
    }


def _in_path(name: str, description: str, example: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": TEXT,
        "example": example,
    }
