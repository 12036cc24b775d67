"""The OpenAPI document and its page: schemas of responses, and what FastAPI cannot derive from a route.

Responses are encoded by hand; a test compares them with these schemas.
"""

import re
from base64 import b64encode
from collections.abc import Collection, Mapping
from hashlib import sha256
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from microtome.manifest import Manifest
from service.http.middleware import ASSETS, prefix_of
from service.http.negotiation import JSON, MSGPACK, NPY, NPZ, ROWS
from service.http.parameters import CLASSIFY_OPTIONS, OPTIONS, TIMEOUT_HEADER, Option
from service.http.problems import MEDIA_TYPE

RED_PNG = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAFklEQVR42mP8z0AaYGIY1TCqYdhqAABALgEfFO4+AgAAAABJRU5ErkJggg=="
BLUE_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGklEQVR42mNkYPjPQApgYiARjGoY1TB0NAAAPjABHxw3M2AAAAAASUVORK5CYII="
)
"""Example images of the interactive documentation."""


Tower = Literal["image", "text"]


class EmbeddingAnswer(BaseModel):
    """One image's or text's vector from one output."""

    index: int = Field(description="Of the item, in the order of the request; each crop of an image counts as one.")
    crop: list[float] | None = Field(None, description="Which region it is: x, y, width, height; left out for all.")
    output: str
    dim: int = Field(description="Numbers in the vector.")
    vector: list[float] | str = Field(
        description="float32; for an output that is not pooled, row by row. With `encoding=base64` little-endian bytes."
    )
    cache: Literal["hit", "miss", "coalesced"] = Field(description="Where the vector came from.")
    tower: Tower | None = Field(None, description="Which tower has answered; left out for a model without family.")


class TowerAnswer(BaseModel):
    """One tower that has answered."""

    tower: Tower
    model: str
    version: int
    fingerprint: str
    space: str = Field(description="Vectors of one space compare, whichever tower they come from.")


class ImageFault(BaseModel):
    """What is wrong with one image; a problem of its own."""

    index: int = Field(description="Of the image, in the order of the request; each of its crops counts as one.")
    crop: list[float] | None = Field(None, description="Which region it is: x, y, width, height; left out for all.")
    type: str
    title: str
    status: int
    detail: str


class EmbedAnswer(BaseModel):
    """Vectors, all from the same version of the same model, or of two towers of one space."""

    model: str = Field(description="Which answered; of images and texts the image tower's.")
    version: int
    fingerprint: str = Field(description="Names everything that can move a vector. Vectors of one fingerprint compare.")
    towers: list[TowerAnswer] | None = Field(
        None, description="Of a model of images and text: those that have answered."
    )
    embeddings: list[EmbeddingAnswer] = Field(description="By image, then in the order of the outputs asked for.")
    errors: list[ImageFault] = Field(description="With `on_error=skip`: the images that have no vectors.")


class ScoredLabel(BaseModel):
    """One class that an image may show."""

    label: str
    id: str | None = Field(description="Such as a WordNet id; null where the model has none.")
    index: int = Field(description="Of the class in the output's vector.")
    score: float


class PredictionAnswer(BaseModel):
    """The best classes of one image by one output."""

    index: int = Field(description="Of the image, in the order of the request; each of its crops counts as one.")
    crop: list[float] | None = Field(None, description="Which region it is: x, y, width, height; left out for all.")
    output: str
    labels: list[ScoredLabel] = Field(description="The best first, `top_k` at most.")
    rejected: bool = Field(description="Whether the best score is below the output's threshold: it is none of these.")
    cache: Literal["hit", "miss", "coalesced"] = Field(description="Where the logits came from.")


class ClassifyAnswer(EmbedAnswer):
    """Classes, and vectors of outputs without classes, all from the same version of the same model."""

    predictions: list[PredictionAnswer] = Field(description="By image, then in the order of the outputs asked for.")


class OutputAnswer(BaseModel):
    """One output of a model, in short; the manifest has the rest."""

    name: str
    kind: Literal["embedding", "map", "classes", "numbers"]
    shape: list[int] = Field(description="Of one image.")
    labels: int | None = Field(description="Of classes: how many; their names are in the manifest.")
    names: list[str] | None = Field(description="Of numbers: what each number of the vector is.")
    units: list[str] | None = Field(description="Of numbers: of each, empty where it has none; null where none has.")


class ModelAnswer(BaseModel):
    """One model, as it is served now."""

    name: str
    ready: bool
    detail: str | None = Field(description="What is wrong, while it is not ready.")
    family: str | None = Field(None, description="The name for both towers of a model of images and text.")
    tower: Tower | None = Field(None, description="Which of them it is.")
    space: str | None = Field(None, description="Vectors of one space compare.")
    version: int | None = Field(description="The version that requests go to now; null before the first has answered.")
    engines: list[str] = Field(
        description="What computes that version, and why, as each model server says; empty where none says, as "
        "TensorFlow Serving."
    )
    outputs: list[OutputAnswer]
    manifest: Manifest | None


class FamilyAnswer(BaseModel):
    """An image tower and a text tower that requests name together."""

    name: str
    ready: bool
    detail: str | None = Field(description="What is wrong, while it is not ready.")
    towers: list[TowerAnswer] = Field(description="The versions in use, of one space; none before there were two.")


class ModelsAnswer(BaseModel):
    """All models of this server."""

    default: str = Field(
        description="Who answers when a request names no model; empty where a request has to name one of several."
    )
    models: list[ModelAnswer]
    families: list[FamilyAnswer] = Field(description="Models of images and text, by the name for both towers.")


class Readiness(BaseModel):
    """Whether the gateway can answer anything: one model, or the cache."""

    ready: bool
    models: dict[str, str | None] = Field(description="By name: null, or why no inference works.")
    dependencies: dict[str, str | None] = Field(
        description="What the gateway stands on, such as `model_server` and `redis`: null, or what is wrong."
    )


class Problem(BaseModel):
    """An error, after RFC 9457."""

    type: str = Field(examples=["urn:microtome:problem:unknown-model"], description="Stable; switch on this.")
    title: str
    status: int
    detail: str = Field(description="What was expected, what came, what to do.")
    errors: list[dict[str, Any]] | None = Field(None, description="When every image failed: why, image by image.")
    request_id: str | None = Field(None, description="To ask the operator about; with unexpected errors only.")


_CROP = {**(OPTIONS["crop"].json or {}), "description": "Regions of this image, instead of the request's."}
_BINARY = {"type": "string", "format": "binary"}
_ITEM = {
    "oneOf": [
        {
            "title": title,
            "type": "object",
            "required": [form],
            "additionalProperties": False,
            "properties": {form: {"type": "string"}, "crop": _CROP},
        }
        for title, form in {"Base64Image": "b64", "DataUriImage": "data_uri", "ImageAddress": "url"}.items()
    ]
}
_TEXT = {
    "title": "Text",
    "type": "object",
    "required": ["text"],
    "additionalProperties": False,
    "properties": {"text": {"type": "string", "description": "For a model that has a text tower."}},
}

_IMAGES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ImageRequest": ("image", {"type": "string", "description": "base64, or a data URI."}),
    "ImagesRequest": ("images", {"type": "array", "minItems": 1, "items": _ITEM}),
    "TextRequest": ("text", {"type": "string", "description": "For a model that has a text tower."}),
    "InputsRequest": ("inputs", {"type": "array", "minItems": 1, "items": {"oneOf": [*_ITEM["oneOf"], _TEXT]}}),
}
"""The forms of a JSON body, by the end of their names: the field that holds images and texts."""


def _request(verb: str, options: Mapping[str, Option], several: str, given: Mapping[str, object]) -> dict[str, Any]:
    """Describe a request with images.

    Args:
        verb: how the names of its types begin.
        options: of the query string, and of a JSON body.
        several: what the example with two images shows.
        given: its options.
    """
    fields = {name: {**(option.json or option.schema), "description": option.help} for name, option in options.items()}
    json_body: dict[str, Any] = {
        "schema": {
            "title": f"{verb}Request",
            "oneOf": [
                {
                    "title": f"{verb}{title}",
                    "type": "object",
                    "additionalProperties": False,
                    "required": [name],
                    "properties": {name: schema, **fields},
                }
                for title, (name, schema) in _IMAGES.items()
            ],
        },
        "examples": {
            "one": {"summary": "One image as base64", "value": {"image": RED_PNG}},
            "several": {
                "summary": several,
                "value": {"images": [{"b64": RED_PNG}, {"data_uri": f"data:image/png;base64,{BLUE_PNG}"}], **given},
            },
        },
    }
    return {
        "parameters": [
            *(
                {
                    "name": name,
                    "in": "query",
                    "required": False,
                    "schema": dict(option.schema),
                    "description": option.help,
                }
                for name, option in options.items()
            ),
            {
                "name": TIMEOUT_HEADER,
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
                # First, since /docs then opens with a file chooser.
                "image/*": {"schema": _BINARY},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["image"],
                        "properties": {"image": {"type": "array", "items": _BINARY}},
                    }
                },
                "application/json": json_body,
                "application/octet-stream": {"schema": _BINARY},
            },
        },
    }


EMBED_REQUEST = _request(
    "Embed", OPTIONS, "Two images, unit vectors, bad ones skipped", {"normalize": True, "on_error": "skip"}
)
CLASSIFY_REQUEST = _request(
    "Classify", CLASSIFY_OPTIONS, "Two images, three labels each, bad ones skipped", {"top_k": 3, "on_error": "skip"}
)

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
    schema = Problem.model_json_schema()
    return {
        status: {"description": _MEANING[status], "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses
    }


def _answer(description: str) -> dict[str, Any]:
    # JSON first, since generators of clients take one of them; FastAPI adds its schema.
    content = {JSON.media_type: {}, **{form.media_type: {"schema": _BINARY} for form in (ROWS, NPY, NPZ, MSGPACK)}}
    headers = {
        "X-Model": "Which model answered.",
        "X-Model-Version": "Which version of it.",
        "X-Fingerprint": "Names everything that can move a vector.",
        "X-Tower": "Of a model of images and text: which towers answered; the three before are a list then.",
        "X-Space": "Of a model of images and text: vectors of one space compare.",
        "X-Cache": "hit, miss or coalesced when all vectors were, else mixed.",
        "Server-Timing": "Milliseconds by stage.",
        "X-Shape": "Of binary rows: rows and columns.",
        "X-Dtype": "Of binary rows: float32, float16, int8 or uint8 (packed bits), little-endian.",
        "X-Index": "Of binary rows, when images were skipped: which images they belong to.",
    }
    described = {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}
    return {"description": description, "content": content, "headers": described, "model": EmbedAnswer}


EMBED_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: _answer("Vectors of all images."),
    207: _answer("Vectors of some images; `errors` says what is wrong with the others. With `on_error=skip` only."),
    **problems(*_MEANING),
}


_LABELLED = {
    "content": {JSON.media_type: {}},
    "headers": {
        name: _answer("")["headers"][name] for name in ("X-Model", "X-Model-Version", "X-Fingerprint", "X-Cache")
    },
    "model": ClassifyAnswer,
}

CLASSIFY_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "Labels of all images.", **_LABELLED},
    207: {
        "description": "Labels of some images; `errors` says what is wrong with the others. With `on_error=skip` only.",
        **_LABELLED,
    },
    **problems(*_MEANING),
}


_PAGE = get_swagger_ui_html(
    # Relative to the page, so right below any path prefix.
    openapi_url="openapi.json",
    title="Microtome",
    swagger_js_url=f"{ASSETS[1:]}/swagger-ui-bundle.js",
    swagger_css_url=f"{ASSETS[1:]}/swagger-ui.css",
    swagger_favicon_url=f"{ASSETS[1:]}/favicon.png",
).body

_SCRIPTS = [sha256(script).digest() for script in re.findall(rb"<script>(.*?)</script>", _PAGE, re.DOTALL)]

_PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' " + " ".join(f"'sha256-{b64encode(digest).decode()}'" for digest in _SCRIPTS),
        # Swagger UI sets styles of elements.
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
"""What /docs may do: load its own files, run its own script, and call the gateway."""

_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key as `Authorization: Bearer KEY`."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key by itself."},
}


def install(app: FastAPI, public_paths: Collection[str] | None) -> None:
    """Serve /openapi.json and /docs, scripts included: fastapi_offline has the files, which need no internet access.

    Args:
        app: whose routes are described.
        public_paths: that need no API key; None where no keys are configured.
    """
    # Made when it is first asked for.
    made: list[dict[str, Any]] = []

    async def document(request: Request) -> Response:
        if not made:
            named = _named(app.openapi())
            made.append(named if public_paths is None else _secured(named, public_paths))
        prefix = prefix_of(request.scope)
        served = {**made[0], "servers": [{"url": prefix}]} if prefix else made[0]
        return JSONResponse(served, headers={"Vary": "X-Forwarded-Prefix"})

    async def page(_: Request) -> Response:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _PAGE_POLICY})

    app.add_route("/openapi.json", document, include_in_schema=False)
    app.add_route("/docs", page, include_in_schema=False)
    app.mount(ASSETS, StaticFiles(packages=[("fastapi_offline", "static")]))


_UNREACHED = "HTTPValidationError"
"""FastAPI's own answer to parameters that do not fit; ours is a problem."""


def _named(document: dict[str, Any]) -> dict[str, Any]:
    """Move schemas with a title to the components: generated clients then have one type for each, of that name."""
    schemas = {
        name: schema
        for name, schema in document.get("components", {}).get("schemas", {}).items()
        if name not in {_UNREACHED, "ValidationError"}
    }

    def moved(value: Any) -> Any:  # noqa: ANN401, any JSON
        if isinstance(value, list):
            return [moved(item) for item in value]
        if not isinstance(value, dict):
            return value
        found = {key: moved(item) for key, item in value.items() if key != "422" or _UNREACHED not in str(item)}
        if "title" in found and found.keys() & {"properties", "oneOf"}:
            schemas[found["title"]] = found
            return {"$ref": f"#/components/schemas/{found['title']}"}
        return found

    paths = moved(document["paths"])
    return {**document, "paths": paths, "components": {**document.get("components", {}), "schemas": schemas}}


def _secured(document: dict[str, Any], public_paths: Collection[str]) -> dict[str, Any]:
    """Add how API keys are sent; paths that need none say so."""
    components = {**document.get("components", {}), "securitySchemes": _SCHEMES}
    paths = {
        path: {method: {**way, "security": []} if path in public_paths else way for method, way in ways.items()}
        for path, ways in document["paths"].items()
    }
    return {**document, "paths": paths, "components": components, "security": [{name: []} for name in _SCHEMES]}
