"""OpenAI's embeddings API for images and texts, as clients of OpenAI, infinity, Jina, Haystack and vLLM use it."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import numpy as np
import orjson
from fastapi import APIRouter
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

from microtome import errors
from microtome.errors import BadRequest, UnsupportedModality
from microtome.manifest import ModelCard
from service.core.ports import ModelServer
from service.core.remote_images import Image, Text
from service.core.requests import Embedded
from service.errors import of_model, shown
from service.http.bodies import BodyLimits
from service.http.compat.errors import embedding_status, error_response
from service.http.compat.handler import CompatHandler, CompatRequest, Dialect
from service.http.compat.openapi import (
    COUNT,
    PHOTO,
    TEXT,
    VECTOR,
    WHOLE,
    an_array,
    an_object,
    described,
    one_of,
)
from service.http.compat.parsing import (
    MODEL_FIELDS,
    choice,
    embed_request,
    image_of,
    is_address,
    is_data_uri,
    json_fields,
)
from service.http.compat.responses import CALIBRATED, NUMBER_TYPES, Shape, json_response, listed, shape_of
from service.http.compat.texts import text_of, tokens_of
from service.http.json_images import at_most
from service.http.problems import Failure

_VECTOR_FIELDS = (
    *("encoding_format", "dimensions", "normalized", "normalize"),
    *("embedding_type", "encoding_type", "embed_dtype", "endianness"),
)

_FIELDS = (*MODEL_FIELDS, "input", "messages", *_VECTOR_FIELDS, "modality", "return_multivector")

_OF_TEXTS = ("task", "late_chunking", "input_type", "truncate", "truncate_prompt_tokens", "add_special_tokens")
_OF_CHATS = ("chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")
_IGNORED = (*_OF_TEXTS, *_OF_CHATS, "mm_processor_kwargs", "priority", "user")
"""Fields that concern texts, chats or the client itself."""

_OBJECT = an_object("OpenAIImage", {"image": TEXT, "url": TEXT, "bytes": TEXT, "text": TEXT}, ())
_MESSAGE = an_object("OpenAIMessage", {"role": TEXT, "content": an_array({"type": "object"})})
_VECTOR = an_object("OpenAIEmbedding", {"object": TEXT, "index": COUNT, "embedding": VECTOR})
_USAGE = an_object("OpenAIUsage", {"prompt_tokens": COUNT, "total_tokens": COUNT})
_ERROR = an_object(
    "OpenAIErrorDetail", {"message": TEXT, "type": TEXT, "param": {"type": ["string", "null"]}, "code": TEXT}
)

_DESCRIBED = described(
    "OpenAIEmbeddings",
    {
        "input": {
            "anyOf": [TEXT, _OBJECT, an_array({"anyOf": [TEXT, _OBJECT]})],
            "description": "An image or a list of images: data URI, address, or an object with one of `image`, `url` "
            "and `bytes`. For a model of images and text also texts, as strings or under `text`.",
        },
        "messages": {
            **an_array(_MESSAGE),
            "description": "vLLM's form: messages with image_url or text contents, in place of `input`.",
        },
        "encoding_format": one_of("float", "base64", "bytes"),
        "embedding_type": one_of(*NUMBER_TYPES, "base64"),
        "dimensions": WHOLE,
    },
    {"input": [PHOTO]},
    {"object": TEXT, "data": an_array(_VECTOR), "model": TEXT, "usage": _USAGE, "id": TEXT, "created": COUNT},
    {"error": _ERROR, "detail": TEXT},
)
_DESCRIBED["responses"][200]["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}

_MODEL = an_object(
    "OpenAIModel",
    {
        "id": TEXT,
        "object": TEXT,
        "created": COUNT,
        "owned_by": TEXT,
        "dimensions": WHOLE,
        "layer": TEXT,
        "version": WHOLE,
        "fingerprint": TEXT,
    },
    ("id", "object", "created", "owned_by"),
)
_MODELS = an_object("OpenAIModels", {"object": TEXT, "data": an_array(_MODEL)})


def read(body: bytes | bytearray, *, default_model: str, limits: BodyLimits) -> CompatRequest:
    """Parse a request's body.

    Raises:
        BadRequest: not a request of the contract.
        UnsupportedModality: neither images nor texts.
        TooManyImages: more items than the limit.
    """
    try:
        fields = json_fields(body, _FIELDS, _IGNORED)
    except BadRequest:
        # Those of a photo's data URI are more numbers than JSON may have here.
        if _TOKEN_IDS.search(body, 0, _TOKEN_IDS_WITHIN):
            raise UnsupportedModality(_TOKENS) from None
        raise
    modality = fields.get("modality")
    if modality is not None and (not isinstance(modality, str) or modality not in {"image", "text"}):
        raise UnsupportedModality(f"Expected `modality` to be image or text, received {shown(modality)}.")
    if fields.get("return_multivector"):
        raise BadRequest("Expected no `return_multivector`: there is one vector for each image here.")
    found = at_most(limits.max_images, _images(fields, limits.max_image_bytes, modality))
    writer = _writer(fields, default_model, found)
    if "messages" in fields and len({isinstance(item, Text) for item in found}) > 1:
        raise BadRequest("Expected messages of images or of texts, since no vector is of both together; received both.")
    return CompatRequest(
        embed_request(fields, default_model),
        found,
        writer,
        dimensions=writer.shape.dimensions,
        int8=writer.kind in CALIBRATED,
        in_thread=any(isinstance(item, Text) for item in found),
    )


_TOKEN_IDS = re.compile(rb'"input"\s*:\s*\[\s*(?:\[\s*)?[0-9]')
_TOKEN_IDS_WITHIN = 4096

_EXPECTED = (
    "Expected `input` to be images: data URIs or https:// addresses as strings, or objects such as "
    '{"image": "<base64>"}; or texts, of a model that takes both; or `messages` with image_url or text contents'
)
_TOKENS = (
    "This server takes images and texts, and received token ids. If LangChain's OpenAIEmbeddings sent them, construct "
    "it with check_embedding_ctx_length=False, and give it images as data URIs."
)
_NOT_AN_IMAGE = (
    "Expected images, since `modality` is image: data URIs (data:image/jpeg;base64,…) or https:// addresses; received "
    "another text."
)


def _images(fields: Mapping[str, object], max_bytes: int, modality: object) -> Iterator[Image]:
    """Read the images and texts of a request, in any form that clients of this contract send.

    | from | items of `input` |
    |---|---|
    | infinity, Haystack | strings: data URIs or addresses; others are texts |
    | Jina and its clients | objects: `image` or `url`: address, data URI or bare base64; `bytes`: bare base64; `text` |
    | mlx-vlm | objects: `{"type": "image_url", "image_url": {"url": …}}`, `{"type": "text", "text": …}` |
    | vLLM | no `input` but `messages`, as in a chat, with `image_url` or `text` in their content |

    Args:
        fields: of the request.
        max_bytes: of one encoded image.
        modality: what strings are: `image`, `text`, or None for either.

    Raises:
        UnsupportedModality: token ids, or a text where `modality` says image.
        BadRequest: anything else that is neither.
    """
    match fields:
        case {"input": _, "messages": _}:
            raise BadRequest(f"{_EXPECTED}, not both.")
        case {"messages": [_, *_] as messages}:
            return (found for message in messages for found in _message(message, max_bytes))
        case {"input": [_, *_] as items}:
            return (_item(item, max_bytes, modality) for item in items)
        case {"input": str() | dict() as item}:
            return iter([_item(item, max_bytes, modality)])
    raise BadRequest(f"{_EXPECTED}; received neither, or an empty list.")


def _item(item: object, max_bytes: int, modality: object) -> Image:
    match item:
        case str() if modality != "text" and (is_address(item) or is_data_uri(item)):
            return image_of(item, max_bytes)
        case str():
            if modality == "image":
                raise UnsupportedModality(_NOT_AN_IMAGE)
            return text_of(item)
        case {"type": _}:
            return _part(item, max_bytes)
        case {"text": text, **rest} if not rest:
            return text_of(text)
        case {"image": text, **rest} | {"url": text, **rest} | {"bytes": text, **rest} if not rest:
            return image_of(text, max_bytes)
        case int() | [int(), *_]:
            raise UnsupportedModality(_TOKENS)
    raise BadRequest(f"{_EXPECTED}; received an item that is something else.")


def _message(message: object, max_bytes: int) -> Iterator[Image]:
    match message:
        case {"content": str() as text}:
            return iter([text_of(text)])
        case {"content": [*parts]}:
            # Some clients send an empty text with each image.
            return (_part(part, max_bytes) for part in parts if part != {"type": "text", "text": ""})
    raise BadRequest(f"{_EXPECTED}; received a message without a list of contents.")


def _part(part: object, max_bytes: int) -> Image:
    match part:
        case {"type": "image_url", "image_url": {"url": text} | (str() as text)}:
            return image_of(text, max_bytes)
        case {"type": "text", "text": text}:
            return text_of(text)
    raise BadRequest(f"{_EXPECTED}; received a content of another type.")


_BYTES = {
    ("float32", "little"): "<f4",
    ("float32", "big"): ">f4",
    ("float16", "little"): "<f2",
    ("float16", "big"): ">f2",
}
_LARGEST_FLOAT16 = 65504.0


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the response of one request.

    Attributes:
        model: its name in the request.
        shape: how vectors are cut and normalised.
        kind: number type, one of `NUMBER_TYPES`.
        form: `float` for lists of numbers, `base64` for strings, `bytes` for a binary body.
        dtype: NumPy's name of the numbers of a binary body.
        items: of the request.
    """

    model: str
    shape: Shape
    kind: str
    form: str
    dtype: str
    items: Sequence[Image]

    def __call__(self, embedded: Embedded) -> Response:
        """Write the response."""
        rows = self.shape.rows(embedded, self.kind)
        # One for each image, since zero would be no usage.
        used = sum(not isinstance(item, Text) for item in self.items) + tokens_of(embedded, self.items)
        usage = {"prompt_tokens": used, "total_tokens": used}
        head = {"id": f"embd-{uuid4().hex}", "created": int(time.time()), "model": self.model, "usage": usage}
        if self.form == "bytes":
            return _bytes(rows, head, self.dtype)
        data = listed(rows, base64=self.form == "base64")
        return json_response({"object": "list", "data": data, **head})


def _bytes(rows: NDArray[np.generic], head: Mapping[str, object], dtype: str) -> Response:
    """Write rows one after another; the header `metadata` has the position of each, as in vLLM."""
    # Numbers beyond float16 become its largest, as in POST /embed.
    rows = (np.clip(rows, -_LARGEST_FLOAT16, _LARGEST_FLOAT16) if dtype.endswith("f2") else rows).astype(dtype)
    name, order = next(key for key, value in _BYTES.items() if value == dtype)
    size = rows[0].nbytes
    items = [
        {
            "index": index,
            "embed_dtype": name,
            "endianness": order,
            "start": index * size,
            "end": (index + 1) * size,
            "shape": list(row.shape),
        }
        for index, row in enumerate(rows)
    ]
    metadata = orjson.dumps({**head, "data": items}).decode("ascii")
    return Response(rows.tobytes(), headers={"metadata": metadata}, media_type="application/octet-stream")


def _writer(fields: Mapping[str, object], model: str, items: Sequence[Image]) -> _Writer:
    """Read how vectors are to be written.

    Args:
        fields: of the request.
        model: of requests that name none.
        items: of the request.

    Raises:
        BadRequest: an unknown way, or two of them.
    """
    kind = _kind(fields)
    form = choice(fields, "encoding_format", ("float", "base64", "bytes"), "float")
    if kind == "base64":
        kind, form = "float", "base64"
    if form == "bytes" and kind != "float":
        raise BadRequest(f"Expected `encoding_format` to be float with vectors of {kind}; received bytes.")
    if kind != "float":
        # OpenAI's clients ask for base64 by default, and read it as float32.
        form = "float"
    order = choice(fields, "endianness", ("native", "little", "big"), "little").replace("native", "little")
    number = choice(fields, "embed_dtype", ("float32", "float16"), "float32")
    if form != "bytes" and (number, order) != ("float32", "little"):
        raise BadRequest('Expected `embed_dtype` and `endianness` with `"encoding_format": "bytes"` only.')
    if "normalize" in fields and "normalized" in fields:
        raise BadRequest("Expected one of `normalize` and `normalized`, received both.")
    shape = shape_of(fields, dimensions="dimensions", normalize="normalize" if "normalize" in fields else "normalized")
    return _Writer(str(fields.get("model", model)), shape, kind, form, _BYTES[number, order], items)


def _kind(fields: Mapping[str, object]) -> str:
    """Read the number type: `embedding_type` of Jina's clients, `encoding_type` of older ones; some send a list."""
    if "embedding_type" in fields and "encoding_type" in fields:
        raise BadRequest("Expected one of `embedding_type` and `encoding_type`, received both.")
    name = "encoding_type" if "encoding_type" in fields else "embedding_type"
    value = fields.get(name, "float")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return choice({name: value}, name, (*NUMBER_TYPES, "base64"), "float")


_CODES = {
    "unauthenticated": "invalid_api_key",
    "unknown-model": "model_not_found",
    "overloaded": "rate_limit_exceeded",
}
"""Errors for which OpenAI has a code."""

_PARAMETERS: dict[type[errors.ServiceError], str] = {
    errors.UnknownModel: "model",
    errors.UnknownOutput: "model",
    errors.NotAnImage: "input",
    errors.BrokenImage: "input",
    errors.ImageTooLarge: "input",
    errors.TooManyImages: "input",
    errors.UnsupportedModality: "input",
    errors.UrlNotAllowed: "input",
    errors.UrlNotFetched: "input",
}


def _error(failure: Failure) -> Response:
    """Write an error as clients of this contract read it: OpenAI's under `error`, Jina's under `detail`.

    The status decides which exception a client raises and whether it retries; `x-should-retry` overrides the latter in
    OpenAI's clients.
    """
    error = failure.error
    status = embedding_status(failure)
    body = {
        "error": {
            "message": failure.detail,
            "type": _error_type(status),
            "param": _PARAMETERS.get(type(error)) if error else None,
            "code": _CODES.get(failure.kind, failure.kind.replace("-", "_")),
        },
        "detail": failure.detail,
    }
    headers = {**failure.headers, **({"X-Should-Retry": _retryable(error)} if error else {})}
    return error_response(body, status.value, headers)


def _error_type(status: HTTPStatus) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"


def _retryable(error: errors.ServiceError) -> str:
    return "true" if isinstance(error, errors.TemporarilyUnable | errors.BodyTooSlow) else "false"


def _add_models(router: APIRouter, models: ModelServer) -> None:
    """Add GET /v1/models: the models, and each output under the name that requests use for it."""

    def answer(schema: Mapping[str, object]) -> dict[int | str, dict[str, Any]]:
        return {200: {"description": "As OpenAI has it.", "content": {"application/json": {"schema": schema}}}}

    @router.get("/v1/models", summary="List the models", response_class=Response, responses=answer(_MODELS))
    async def list_models() -> Response:
        """Every model, and every output of it as `model/output`. Some are in use only by their default output."""
        return JSONResponse({"object": "list", "data": list(_entries(models))})

    @router.get("/v1/models/{name:path}", summary="Describe a model", response_class=Response, responses=answer(_MODEL))
    async def describe_model(name: str) -> Response:
        """One model, or one output of it."""
        return JSONResponse(of_model(name, {str(entry["id"]): entry for entry in _entries(models)}))


def _entries(models: ModelServer) -> Iterator[dict[str, object]]:
    for name, card in models.cards().items():
        yield _entry(name, card, card.manifest.default_output if card else None)
        if card is not None:
            for output in card.outputs:
                yield _entry(f"{name}/{output}", card, output)
    for name, family in models.families().items():
        towers = family.towers.cards if family.towers else []
        yield _entry(name, towers[0] if towers else None, towers[0].manifest.default_output if towers else None)
        for output in towers[0].outputs if towers else ():
            if all(output in card.outputs for card in towers):
                yield _entry(f"{name}/{output}", towers[0], output)


def _entry(name: str, card: ModelCard | None, output: str | None) -> dict[str, object]:
    entry: dict[str, object] = {"id": name, "object": "model", "created": 0, "owned_by": "microtome"}
    if card is None or output is None:
        return entry
    spec = card.outputs[output]
    return {
        **entry,
        "created": int(datetime.fromisoformat(card.manifest.created).timestamp()),
        "dimensions": spec.dim,
        "layer": spec.layer,
        "version": card.version,
        "fingerprint": card.manifest.fingerprint,
    }


def _add_routes(router: APIRouter, handler: CompatHandler) -> None:
    for path in ("/v1/embeddings", "/embeddings"):
        handler.post(
            router,
            path,
            read,
            name="embeddings" if path.startswith("/v1/") else "embeddings_without_v1",
            summary="Embed images or texts",
            description="Turn images into vectors, and texts where the model takes them, as OpenAI's API does.",
            **_DESCRIBED,
        )
    _add_models(router, handler.intake.models)


DIALECT = Dialect("openai", "OpenAI, Jina, infinity, vLLM", ("/v1/", "/embeddings"), _add_routes, _error)
