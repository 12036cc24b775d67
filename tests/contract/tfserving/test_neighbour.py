"""A hostile neighbour on the port gets an error, and the server lives on: our own bounds, which the real one lacks."""

from __future__ import annotations

import grpc
import pytest
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2
from tensorflow_serving.config import model_server_config_pb2

from modelserver.api.grpc_server import MOST_FIELDS, parse
from modelserver.errors import InvalidArgument, ResourceExhausted
from modelserver.tensors.signatures import Bounds, bind
from tests.contract.tfserving.neighbour import (
    ATTEMPTS,
    PREDICT,
    RELOAD,
    STRING,
    UINT8,
    Attempt,
    Memory,
    Method,
    Target,
    answers,
    block,
    images,
    number,
    predict,
    reload,
    shape,
    spec,
    tensor,
    tried,
)
from tests.contract.tfserving.server_process import external_address
from tests.contract.tfserving.tiny_models import SIDE

TINY = Target("tiny", (SIDE, SIDE, 3), ("early", "top"))
REFUSALS = ("UNIMPLEMENTED: ", "INVALID_ARGUMENT: ", "RESOURCE_EXHAUSTED: ", "PERMISSION_DENIED: ")

pytestmark = pytest.mark.skipif(external_address() is not None, reason="the real server has no such bounds")

SMALL = [
    *(attempt for attempt in ATTEMPTS if len(attempt.message(TINY)) < 6_000_000),
    Attempt("150 MB of zeros, compressed", PREDICT, lambda _: block(2, bytes(150_000_000)), compressed=True),
]
"""What costs the sender little; the table of docs/model-server.md has all."""


@pytest.mark.parametrize("attempt", SMALL, ids=lambda attempt: attempt.what)
def test_an_attempt_is_refused_and_the_server_lives_on(batching_address: str, attempt: Attempt) -> None:
    """With an error of the caller's, never one that says that the server failed."""
    outcome = tried(batching_address, attempt, TINY, Memory(None))

    assert outcome.answer.startswith(REFUSALS), outcome
    assert answers(batching_address, TINY)


def test_a_reload_is_refused_unless_it_is_switched_on(batching_address: str) -> None:
    """Also one of a model that is served."""
    outcome = tried(batching_address, Attempt("", RELOAD, lambda _: reload("/")), TINY, Memory(None))

    assert outcome.answer.startswith("PERMISSION_DENIED: This server takes no configuration over gRPC.")


def test_inputs_of_requests_in_flight_are_bounded_together(batching_address: str) -> None:
    """Of 64 requests of the largest batch, each is answered or told to come again."""
    outcome = tried(batching_address, Attempt("", PREDICT, lambda to: images(to, 16), at_once=64), TINY, Memory(None))

    # The queue of batches is full, or the memory for inputs.
    assert {"OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED"} >= {
        answer.partition(":")[0] for answer in outcome.answer.split(" | ")
    }


@pytest.mark.parametrize(
    ("sizes", "values", "dtype", "error"),
    [
        ((17, 8, 8, 3), b"", UINT8, "Task size 17 is larger than maximum input batch size 16"),
        ((1, 1000, 1000, 3), b"", UINT8, "input images may take 1000000 bytes, and takes 3000000"),
        ((1, 8, 8, 3), b"", UINT8, None),
        ((16, 1000), block(8, bytes(100)), STRING, "takes 3136000"),
        ((16, 20_000), b"", STRING, "takes 30720000"),
        ((0, 2**62, 2**62, 3), b"", UINT8, "OOM when allocating"),
    ],
)
def test_bounds_are_checked_before_anything_is_decoded(
    sizes: tuple[int, ...], values: bytes, dtype: int, error: str | None
) -> None:
    """Rows and bytes of every type, of broadcast values, of texts and of sizes that multiply to nothing."""
    from tensorflow.core.protobuf import meta_graph_pb2  # noqa: PLC0415

    signature = meta_graph_pb2.SignatureDef()
    signature.inputs["images"].dtype = dtype
    for size in (-1, *sizes[1:]):
        signature.inputs["images"].tensor_shape.dim.add(size=size)
    request = predict_pb2.PredictRequest.FromString(predict("tiny", tensor(dtype, shape(*sizes), values)))
    bounds = Bounds(bytes=1_000_000, rows=16)

    if error is None:
        assert bind(signature, request.inputs, (), bounds)
        return
    with pytest.raises((InvalidArgument, ResourceExhausted), match=error):
        bind(signature, request.inputs, (), bounds)


def test_inputs_share_the_bytes_of_a_request() -> None:
    """Two of 600 kB are more than a million."""
    from tensorflow.core.protobuf import meta_graph_pb2  # noqa: PLC0415

    signature = meta_graph_pb2.SignatureDef()
    request = predict_pb2.PredictRequest()
    for alias in "ab":
        signature.inputs[alias].dtype = request.inputs[alias].dtype = UINT8
        request.inputs[alias].tensor_shape.dim.add(size=600_000)
        signature.inputs[alias].tensor_shape.dim.add(size=-1)

    with pytest.raises(ResourceExhausted, match="may take 400000 bytes, and takes 600000"):
        bind(signature, request.inputs, (), Bounds(bytes=1_000_000))


@pytest.mark.parametrize(
    "raw",
    [
        b"\x0a",
        b"\x0a\x05ab",
        b"\x0b\x0c",
        b"\xff" * 11,
        block(2, b"\x0a\x7f"),
        block(2, block(1, b"\xff")),
        number(1, 1)[:1],
    ],
)
def test_bytes_that_are_no_request_are_the_callers_fault(raw: bytes) -> None:
    """Cut short, groups, numbers without end, texts that are none: one sentence, no traceback."""
    with pytest.raises(InvalidArgument, match=r"Expected a tensorflow\.serving\.PredictRequest\. Received \d+ bytes"):
        parse(predict_pb2.PredictRequest, raw)


def test_fields_are_counted_wherever_they_are() -> None:
    """Of the message, of messages in it, however deep; as many as are allowed are read."""
    name = spec("tiny")
    fields = MOST_FIELDS - 2
    metadata = get_model_metadata_pb2.GetModelMetadataRequest
    assert fields == len(parse(metadata, name + block(2, b"x") * fields).metadata_field)
    nested = b""
    for _ in range(30):
        nested = tensor(21, b"", block(15, block(3, nested)))
    for message in (block(2, b"x") * (MOST_FIELDS + 1), name + block(2, b"x") * (fields + 1)):
        with pytest.raises(InvalidArgument, match="Expected a request of at most"):
            parse(metadata, message)
    with pytest.raises(InvalidArgument, match="Expected a request of at most"):
        parse(predict_pb2.PredictRequest, predict("tiny", nested))
    listed = block(1, block(1, block(1, b"a")) * MOST_FIELDS)
    with pytest.raises(InvalidArgument, match="Expected a request of at most"):
        parse(model_server_config_pb2.ModelServerConfig, listed)


def test_compressed_messages_are_refused(batching_address: str) -> None:
    """Forty of 50 kB, within the limit each, became 2 GB at a time before one of them was looked at."""
    with grpc.insecure_channel(batching_address, compression=grpc.Compression.Gzip) as channel:
        method: Method = channel.unary_unary(PREDICT)
        with pytest.raises(grpc.RpcError, match=r"UNIMPLEMENTED"):
            method(images(TINY, 16), timeout=60)
