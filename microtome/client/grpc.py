"""One attempt over gRPC, for both clients: messages made and read, and statuses translated into errors."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from numpy.typing import NDArray

from microtome.client.errors import MicrotomeError, UnexpectedAnswer, named, none_embedded, unplaced
from microtome.client.images import Body, Text, together
from microtome.client.options import NUMPY, EmbedOptions
from microtome.client.results import BatchResult, Label, ModelInfo, ModelVersion, Prediction, default_first, family_of
from microtome.client.transports import Call
from microtome.v1 import embedding_pb2 as messages
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub

# The server has its own limits for requests, and responses are as long as the caller asked for.
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
_NUMPY = {messages.Dtype.Value(f"DTYPE_{name.upper()}"): kind for name, kind in NUMPY.items()}
_CROP = ("x", "y", "width", "height")
_KINDS = {
    grpc.StatusCode.UNAVAILABLE: "unreachable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline-exceeded",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "overloaded",
    grpc.StatusCode.UNAUTHENTICATED: "unauthenticated",
}
"""Errors of statuses without a reason, which come from gRPC itself or from a proxy."""


class GrpcTransport:
    """One channel, shared by all threads: HTTP/2 carries many calls at a time."""

    def __init__(self, url: str, api_key: str | None, ca_file: str | None, *, asynchronous: bool) -> None:
        self._url = url
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        channel = _channel(grpc.aio if asynchronous else grpc, url, ca_file)
        self._stub: Any = EmbeddingServiceStub(channel)
        self.close = channel.close

    def embed(self, images: Sequence[Body], options: EmbedOptions) -> Call[BatchResult]:
        """Embed the images of one request, or regions of them; a bad one has an error in its place."""
        request = embed_request(images, options)
        method = self._stub.Embed if options.classes is None else self._stub.Classify
        return Call(
            lambda timeout: method(request, timeout=timeout, metadata=self._metadata),
            lambda response: read_embed(response, len(images)),
        )

    def models(self) -> Call[list[ModelInfo]]:
        """List what is served, the default model first."""
        request = messages.ListModelsRequest()
        return Call(
            lambda timeout: self._stub.ListModels(request, timeout=timeout, metadata=self._metadata), read_models
        )

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Translate gRPC's errors into the client's.

        Raises:
            MicrotomeError: the call failed.
        """
        try:
            yield
        except grpc.RpcError as error:
            raise _from_call(self._url, error) from error


def _channel(library: Any, url: str, ca_file: str | None) -> Any:  # noqa: ANN401, grpc or grpc.aio, which share no type
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    if parts.scheme == "grpc":
        return library.insecure_channel(f"{host}:{parts.port or 80}", options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(Path(ca_file).read_bytes() if ca_file else None)
    return library.secure_channel(f"{host}:{parts.port or 443}", credentials, options=_OPTIONS)


def embed_request(images: Sequence[Body], options: EmbedOptions) -> messages.EmbedRequest | messages.ClassifyRequest:
    """Return the request message."""
    asked = messages.EmbedOptions(
        model=options.model or "",
        version=options.version or 0,
        outputs=options.output,
        normalize=options.normalize,
        dimensions=options.dimensions or 0,
        dtype=f"DTYPE_{options.dtype.upper()}",
        on_error=messages.ON_ERROR_SKIP,
        cache=f"CACHE_USE_{options.cache.upper()}",
        priority=f"PRIORITY_{options.priority.upper()}",
    )
    sent = [
        messages.Image(text=file.text)
        if isinstance(file, Text)
        else messages.Image(data=file, crops=[messages.Crop(**dict(zip(_CROP, crop, strict=True))) for crop in crops])
        for file, crops in together(images)
    ]
    if options.classes is None:
        return messages.EmbedRequest(options=asked, images=sent)
    labels = options.classes
    classes = messages.ClassOptions(
        top_k=labels.top_k,
        min_score=labels.min_score,
        function=f"FUNCTION_{labels.function.upper()}" if labels.function else messages.FUNCTION_UNSPECIFIED,
        labels=labels.labels,
        templates=labels.template,
    )
    return messages.ClassifyRequest(options=asked, images=sent, classes=classes)


def read_embed(response: messages.EmbedResponse | messages.ClassifyResponse, count: int) -> BatchResult:
    """Read the results of `count` images.

    Raises:
        UnexpectedAnswer: another number of results.
    """
    if len(response.results) != count:
        raise UnexpectedAnswer(f"Expected {count} results, received {len(response.results)}.")
    first = _version(response.model)
    towers = {tower.tower: _version(tower) for tower in response.towers}
    models = [None if one.HasField("error") else towers.get(one.tower, first) for one in response.results]
    return BatchResult(models, list(map(_result, response.results)))


def _version(model: messages.ModelVersion) -> ModelVersion:
    return ModelVersion(model.name, model.version, model.fingerprint, model.tower, model.space)


def _result(result: messages.ImageResult) -> Mapping[str, NDArray[Any] | Prediction] | MicrotomeError:
    if result.HasField("error"):
        error = _from_status(result.error)
        return error or UnexpectedAnswer(f"An image failed without a reason: {result.error.message}")
    found: dict[str, NDArray[Any] | Prediction] = {
        e.output: np.frombuffer(e.data, _NUMPY[e.dtype]) for e in result.embeddings
    }
    for one in result.predictions:
        labels = tuple(Label(label.name, label.id or None, label.index, label.score) for label in one.labels)
        found[one.output] = Prediction(labels, one.rejected)
    return found


def read_models(response: messages.ListModelsResponse) -> list[ModelInfo]:
    """Read the list of models, in which the default model is first."""
    found: list[ModelInfo] = []
    for model in response.models:
        if model.family == model.name:
            found.append(family_of(model.name, list(map(_version, model.towers)), found, ready=model.ready))
            continue
        found.append(
            ModelInfo(
                name=model.name,
                ready=model.ready,
                version=model.version or None,
                fingerprint=model.fingerprint or None,
                outputs=default_first({o.name: tuple(o.shape) for o in model.outputs}, model.default_output),
                manifest=json.loads(model.manifest_json) if model.manifest_json else None,
            )
        )
    towers = {tower.name for info in found for tower in info.towers.values()}
    alone = [info for info in found if info.name not in towers]
    # Where both towers of one model are all that there is, the server takes requests without a name for that one.
    return [*alone, *(info for info in found if info not in alone)] if len(alone) == 1 else found


def _from_call(url: str, error: Any) -> MicrotomeError:  # noqa: ANN401, of two kinds that share no type
    found = dict(error.trailing_metadata() or ())
    packed = found.get("grpc-status-details-bin")
    if isinstance(packed, bytes):
        ours = _from_status(status_pb2.Status.FromString(packed))
        if ours:
            return ours
    kind = _KINDS.get(error.code(), "unexpected-answer")
    return named(kind, f"{url}: {error.code().name}: {error.details()}")


def _from_status(status: Any) -> MicrotomeError | None:  # noqa: ANN401, these stubs have no types
    reason, retry_after, request_id, failures = "", 0.0, "", {}
    for detail in status.details:
        info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason, request_id = info.reason, info.metadata.get("request_id", "")
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        elif detail.Unpack(bad):
            failures = dict(map(_violation, bad.field_violations))
    if not reason:
        return None
    kind = _kind(reason)
    if kind == "no-image-embedded":
        return none_embedded(status.message, failures)
    # The image's place in the request means nothing to a caller, who never sees the request.
    detail = unplaced(status.message)
    return named(kind, detail, retry_after=retry_after, request_id=request_id)


def _violation(violation: Any) -> tuple[int, MicrotomeError]:  # noqa: ANN401, as above
    """Read the error of one image, whose field is `images[3]`."""
    place = int(violation.field.removeprefix("images[").removesuffix("]"))
    return place, named(_kind(violation.reason), unplaced(violation.description))


def _kind(reason: str) -> str:
    return reason.lower().replace("_", "-")
