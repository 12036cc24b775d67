"""How gRPC says it: messages made and read, and statuses turned into errors. No I/O: both gRPC transports share it."""

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

from microtome.client.errors import MicrotomeError, UnexpectedAnswer, named, none_embedded
from microtome.client.options import EmbedOptions
from microtome.client.outcomes import Answer, ModelInfo, ModelVersion
from microtome.v1 import embedding_pb2 as messages

CHANNEL_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
"""The server has limits of its own for requests, and its answers are as long as what was asked for."""

_DTYPE = {
    "float32": messages.DTYPE_FLOAT32,
    "float16": messages.DTYPE_FLOAT16,
    "int8": messages.DTYPE_INT8,
    "binary": messages.DTYPE_BINARY,
}
_NUMPY = {
    messages.DTYPE_FLOAT32: "<f4",
    messages.DTYPE_FLOAT16: "<f2",
    messages.DTYPE_INT8: "i1",
    messages.DTYPE_BINARY: "u1",
}
_CACHE = {
    "use": messages.CACHE_USE_USE,
    "refresh": messages.CACHE_USE_REFRESH,
    "bypass": messages.CACHE_USE_BYPASS,
}
_KINDS = {
    grpc.StatusCode.UNAVAILABLE: "unreachable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline-exceeded",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "overloaded",
    grpc.StatusCode.UNAUTHENTICATED: "unauthenticated",
}
"""What a status means that carries no reason: gRPC itself gave it, or a proxy."""


def target(url: str, ca_file: str | None) -> tuple[str, grpc.ChannelCredentials | None]:
    """Return what a channel is opened to, and with which credentials; None for a plain one."""
    parts = urlsplit(url)
    address = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'grpcs' else 80)}"
    if parts.hostname and ":" in parts.hostname:
        address = f"[{parts.hostname}]:{parts.port or 80}"
    if parts.scheme == "grpc":
        return address, None
    return address, grpc.ssl_channel_credentials(Path(ca_file).read_bytes() if ca_file else None)


def metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """Return what is sent beside every message."""
    return (("authorization", f"Bearer {api_key}"),) if api_key else ()


def embed_request(images: Sequence[bytes], options: EmbedOptions) -> messages.EmbedRequest:
    """Make the request."""
    return messages.EmbedRequest(
        options=messages.EmbedOptions(
            model=options.model or "",
            version=options.version or 0,
            outputs=options.output,
            normalize=options.normalize,
            dimensions=options.dimensions or 0,
            dtype=_DTYPE[options.dtype],
            on_error=messages.ON_ERROR_SKIP,
            cache=_CACHE[options.cache],
        ),
        images=[messages.Image(data=image) for image in images],
    )


def read_embed(response: messages.EmbedResponse, count: int) -> Answer:
    """Read what came of `count` images.

    Raises:
        UnexpectedAnswer: another number of results.
    """
    if len(response.results) != count:
        raise UnexpectedAnswer(f"Expected {count} results, received {len(response.results)}.")
    model = response.model
    version = ModelVersion(model.name, model.version, model.fingerprint)
    return Answer(version, [_result(place, result) for place, result in enumerate(response.results)])


def _result(place: int, result: messages.ImageResult) -> Mapping[str, NDArray[Any]] | MicrotomeError:
    if result.HasField("error"):
        error = _from_status(result.error, place)
        return error or UnexpectedAnswer(f"An image failed without a reason: {result.error.message}")
    return {e.output: np.frombuffer(e.data, _NUMPY[e.dtype]) for e in result.embeddings}


def read_models(response: messages.ListModelsResponse) -> list[ModelInfo]:
    """Read the catalogue, which the server begins with its default model."""
    return [
        ModelInfo(
            name=model.name,
            ready=model.ready,
            version=model.version or None,
            fingerprint=model.fingerprint or None,
            outputs=dict(
                sorted(
                    ((o.name, tuple(o.shape)) for o in model.outputs), key=lambda item: item[0] != model.default_output
                )
            ),
            manifest=json.loads(model.manifest_json) if model.manifest_json else None,
        )
        for model in response.models
    ]


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn gRPC's errors into ours.

    Raises:
        MicrotomeError: the call failed.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise _from_call(url, error) from error


def _from_call(url: str, error: Any) -> MicrotomeError:  # noqa: ANN401, of two kinds that share no type
    found = dict(error.trailing_metadata() or ())
    packed = found.get("grpc-status-details-bin")
    if isinstance(packed, bytes):
        ours = _from_status(status_pb2.Status.FromString(packed))
        if ours:
            return ours
    kind = _KINDS.get(error.code(), "unexpected-answer")
    return named(kind, f"{url}: {error.code().name}: {error.details()}")


def _from_status(status: Any, place: int = -1) -> MicrotomeError | None:  # noqa: ANN401, these stubs have no types
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
    # Which image of the request it was means nothing to a caller who never saw the request.
    detail = status.message.removeprefix(f"Image {place}: ")
    return named(kind, detail, retry_after=retry_after, request_id=request_id)


def _violation(violation: Any) -> tuple[int, MicrotomeError]:  # noqa: ANN401, as above
    """Read what is wrong with one image, whose field is `images[3]`."""
    place = int(violation.field.removeprefix("images[").removesuffix("]"))
    return place, named(_kind(violation.reason), violation.description.removeprefix(f"Image {place}: "))


def _kind(reason: str) -> str:
    return reason.lower().replace("_", "-")
