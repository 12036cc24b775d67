"""One attempt over HTTP, for both clients: requests for httpx, and responses read.

Vectors are MessagePack, the only form that holds several outputs, all dtypes and an error for each image; labels JSON.
"""

import ssl
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import httpx
import numpy as np
import ormsgpack
from numpy.typing import NDArray

from microtome.client import errors
from microtome.client.errors import MicrotomeError, UnexpectedAnswer, named, none_embedded, unplaced
from microtome.client.images import Body, Crop, Text, together
from microtome.client.options import NUMPY, EmbedOptions
from microtome.client.results import BatchResult, Label, ModelInfo, ModelVersion, Prediction, default_first, family_of
from microtome.client.transports import Call

_TRY_AGAIN = {429: "overloaded", 502: "unreachable", 503: "unreachable", 504: "deadline-exceeded"}
"""Errors of statuses without a problem document, which come from a proxy."""

_PREFIX = "urn:microtome:problem:"

_IN_BODY = ("labels", "template")
"""Options that are sent in the body: many labels are too long for an address."""

Found = Mapping[str, NDArray[Any] | Prediction]
"""An image's vectors and predictions, by output."""


class HttpTransport:
    """Keeps connections open between requests; safe to use from many threads."""

    def __init__(self, url: str, api_key: str | None, ca_file: str | None, *, asynchronous: bool) -> None:
        self._url = url
        library: Any = httpx.AsyncClient if asynchronous else httpx.Client
        self._client = library(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            verify=ssl.create_default_context(cafile=ca_file) if ca_file else True,
            # As many connections as concurrent requests.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30),
        )
        self.close = self._client.aclose if asynchronous else self._client.close

    def embed(self, images: Sequence[Body], options: EmbedOptions) -> Call[BatchResult]:
        """Embed the images of one request, or regions of them; a bad one has an error in its place."""
        return Call(
            lambda timeout: self._client.request(**embed_request(images, options, timeout)),
            lambda response: read_embed(response, len(images), options),
        )

    def models(self) -> Call[list[ModelInfo]]:
        """List what is served, the default model first."""
        return Call(lambda timeout: self._client.get("/models", timeout=timeout), read_models)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Translate httpx's errors into the client's.

        Raises:
            DeadlineExceeded: the attempt took too long.
            Unreachable: no connection, or a broken one.
            UnexpectedAnswer: the response is not HTTP that the client follows.
        """
        try:
            yield
        except httpx.ConnectTimeout as error:
            raise errors.Unreachable(f"{self._url} cannot be reached: no connection in time.") from error
        except httpx.TimeoutException as error:
            raise errors.DeadlineExceeded(f"{self._url} did not answer in time.") from error
        except httpx.TransportError as error:
            raise errors.Unreachable(f"{self._url} cannot be reached: {error or type(error).__name__}.") from error
        except httpx.HTTPError as error:
            raise UnexpectedAnswer(f"{self._url}: {error}") from error


def embed_request(images: Sequence[Body], options: EmbedOptions, timeout: float) -> dict[str, Any]:
    """Return the arguments of `httpx.Client.request`."""
    labels = options.classes
    params: dict[str, Any] = {
        "encoding": options.dtype if labels is None else None,
        "on_error": "skip",
        "model": options.model,
        "version": options.version,
        "output": list(options.output) or None,
        "normalize": "true" if options.normalize else None,
        "dimensions": options.dimensions,
        "cache": options.cache if options.cache != "use" else None,
        "priority": options.priority if options.priority != "interactive" else None,
        **({name: value for name, value in asdict(labels).items() if name not in _IN_BODY} if labels else {}),
    }
    request: dict[str, Any] = {
        "method": "POST",
        "url": "/classify" if labels else "/embed",
        "params": {name: value for name, value in params.items() if value is not None},
        "headers": {
            "Accept": "application/json" if labels else "application/msgpack",
            "X-Request-Timeout": f"{timeout:.3f}",
        },
        "timeout": timeout,
    }
    files = together(images)
    words = {name: getattr(labels, name) for name in _IN_BODY if getattr(labels, name, ())}
    if len(files) == 1 and isinstance(files[0][0], bytes) and not words:
        ((request["content"], crops),) = files
        request["headers"]["Content-Type"] = "application/octet-stream"
        request["params"] |= {"crop": [",".join(map(repr, crop)) for crop in crops]} if crops else {}
    elif words or any(crops or isinstance(file, Text) for file, crops in files):
        request["json"] = {"images": [_item(file, crops) for file, crops in files], **words}
    else:
        # A part must have a file name; the server ignores it.
        request["files"] = [("image", ("image", file, "application/octet-stream")) for file, _ in files]
    return request


def _item(file: bytes | Text, crops: Sequence[Crop]) -> dict[str, object]:
    if isinstance(file, Text):
        return {"text": file.text}
    return {"b64": b64encode(file).decode(), **({"crop": crops} if crops else {})}


def read_embed(response: httpx.Response, count: int, options: EmbedOptions) -> BatchResult:
    """Read the results of `count` images.

    Raises:
        MicrotomeError: the request failed as a whole.
    """
    if not response.is_success:
        raise _refusal(response)
    with _understood(response):
        document = response.json() if options.classes else ormsgpack.unpackb(response.content)
        return BatchResult(_answering(document, count), _placed(document, count, options))


def _answering(document: Mapping[str, Any], count: int) -> list[ModelVersion | None]:
    """Return the model that has answered each image: of a model of images and text, one of its towers."""
    towers = {one["tower"]: _tower(one) for one in document.get("towers") or ()}
    first = ModelVersion(document["model"], document["version"], document["fingerprint"])
    first = next(iter(towers.values()), first)
    found: list[ModelVersion | None] = [first] * count
    for entry in document["embeddings"]:
        found[entry["index"]] = towers.get(entry.get("tower"), first)
    for fault in document["errors"]:
        found[fault["index"]] = None
    return found


def _placed(document: Mapping[str, Any], count: int, options: EmbedOptions) -> list[Found | MicrotomeError]:
    found: list[dict[str, NDArray[Any] | Prediction]] = [{} for _ in range(count)]
    for entry in document["embeddings"]:
        vector = entry["vector"]
        numbers = np.frombuffer(vector, NUMPY[options.dtype]) if not options.classes else np.array(vector, np.float32)
        found[entry["index"]][entry["output"]] = numbers
    for entry in document.get("predictions", ()):
        labels = tuple(Label(one["label"], one["id"], one["index"], one["score"]) for one in entry["labels"])
        found[entry["index"]][entry["output"]] = Prediction(labels, entry["rejected"])
    placed: list[Found | MicrotomeError] = list(found)
    for fault in document["errors"]:
        placed[fault["index"]] = _fault(fault)
    if not all(placed):
        raise ValueError(f"image {placed.index({})} is missing")
    return placed


def _fault(fault: Mapping[str, Any]) -> MicrotomeError:
    # The image's place in the request means nothing to a caller, who never sees the request.
    detail = unplaced(fault["detail"])
    return named(fault["type"].removeprefix(_PREFIX), detail)


def read_models(response: httpx.Response) -> list[ModelInfo]:
    """Read the list of models.

    Raises:
        MicrotomeError: the request failed.
    """
    if not response.is_success:
        raise _refusal(response)
    with _understood(response):
        document = response.json()
        first = document["default"]
        models = list(map(_model, document["models"]))
        for one in document.get("families", ()):
            models.append(family_of(one["name"], list(map(_tower, one["towers"])), models, ready=one["ready"]))
        return sorted(models, key=lambda info: info.name != first)


def _tower(one: Mapping[str, Any]) -> ModelVersion:
    return ModelVersion(one["model"], one["version"], one["fingerprint"], one["tower"], one["space"] or "")


def _model(entry: Mapping[str, Any]) -> ModelInfo:
    manifest = entry["manifest"]
    outputs = {o["name"]: tuple(o["shape"]) for o in manifest["outputs"]} if manifest else {}
    default = manifest["default_output"] if manifest else None
    return ModelInfo(
        name=entry["name"],
        ready=entry["ready"],
        version=entry["version"],
        fingerprint=manifest["fingerprint"] if manifest else None,
        outputs=default_first(outputs, default),
        manifest=manifest,
    )


@contextmanager
def _understood(response: httpx.Response) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UnexpectedAnswer(
            f"{response.url}: expected an answer of Microtome's, received {response.status_code} with "
            f"{response.headers.get('content-type', 'no Content-Type')} ({type(error).__name__}: {error})."
        ) from error


def _refusal(response: httpx.Response) -> MicrotomeError:
    """Read an error."""
    retry_after = _seconds(response.headers.get("retry-after", ""))
    request_id = response.headers.get("x-request-id", "")
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        with _understood(response):
            problem = response.json()
            kind = problem["type"].removeprefix(_PREFIX)
            if kind == "no-image-embedded":
                return none_embedded(problem["detail"], {f["index"]: _fault(f) for f in problem["errors"]})
            return named(kind, problem["detail"], retry_after=retry_after, request_id=request_id)
    kind = _TRY_AGAIN.get(response.status_code, "unexpected-answer")
    said = f"{response.url.copy_with(query=None)} answered {response.status_code}: {response.text[:200]}"
    return named(kind, said, retry_after=retry_after)


def _seconds(retry_after: str) -> float:
    # The header may hold a date too (RFC 9110 section 10.2.3); then our own pauses have to do.
    return float(retry_after) if retry_after.isascii() and retry_after.isdecimal() and len(retry_after) < 6 else 0.0
