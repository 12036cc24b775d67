"""Predict: which version, signature and outputs answer, and the rows of table 1.3 of the reference."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2

from tests.contract.tfserving.requests import FLOAT, floats, images, predict, slow, tensor
from tests.contract.tfserving.server_process import Client, status_of
from tests.contract.tfserving.tiny_models import SIDE, expected_early, expected_top

INVALID = grpc.StatusCode.INVALID_ARGUMENT
ONE = np.ones(1, np.float32)

only_tensorflow = pytest.mark.parametrize("client", ["address"], indirect=True, ids=["tensorflow"])


@pytest.fixture(params=["address", "openvino_address"], ids=["tensorflow", "openvino"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """Return a client of the server under test, then one of ours that computes with OpenVINO."""
    with Client(request.getfixturevalue(request.param)) as client:
        yield client


def test_1_2_no_version_means_the_highest_that_is_loaded(client: Client) -> None:
    """Neither version nor label: version 2 answers, and says so."""
    answer = client.predict(predict())

    assert 2 == answer.model_spec.version.value
    assert np.allclose(expected_early(images(1), 2), floats(answer.outputs["early"]), rtol=1e-5)


def test_1_2_a_version_means_exactly_that_one(client: Client) -> None:
    """Version 1 answers although 2 is loaded."""
    pixels = images(3)

    answer = client.predict(predict(inputs={"images": pixels}, version=1))

    assert ("tiny", 1, "serving_default") == (
        answer.model_spec.name, answer.model_spec.version.value, answer.model_spec.signature_name,
    )  # fmt: skip
    assert np.allclose(expected_early(pixels, 1), floats(answer.outputs["early"]), rtol=1e-5)
    assert np.allclose(expected_top(pixels, 1), floats(answer.outputs["top"]), rtol=1e-4)


def test_1_2_a_label_means_the_version_it_points_at_and_is_not_echoed(client: Client) -> None:
    """The answer's model_spec holds the version, never the label."""
    answer = client.predict(predict(label="stable"))

    assert ("version", 1) == (answer.model_spec.WhichOneof("version_choice"), answer.model_spec.version.value)


def test_1_2_version_zero_is_a_version_and_not_the_latest(client: Client) -> None:
    """A present message with value 0 is not the same as no message."""
    assert (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(tiny, 0)") == status_of(
        lambda: client.predict(predict(version=0))
    )


def test_1_2_output_filter_names_what_is_fetched(client: Client) -> None:
    """Only the outputs asked for come back; without a filter, all."""
    assert {"top"} == set(client.predict(predict("tiny", "top")).outputs)
    assert {"top", "early"} == set(client.predict(predict("tiny", "top", "early")).outputs)
    assert {"top", "early"} == set(client.predict(predict()).outputs)


def test_1_2_the_answer_names_the_signature_that_was_used(client: Client) -> None:
    """A signature other than the default, here the manifest; strings come back as bytes."""
    answer = client.predict(predict(signature="manifest", inputs={"query": np.zeros(2, np.int32)}))

    assert "manifest" == answer.model_spec.signature_name
    texts = answer.outputs["manifest"].string_val
    assert [16, 16] == [json.loads(text)["max_batch_size"] for text in texts]


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        pytest.param(predict_pb2.PredictRequest(), INVALID, "Missing ModelSpec", id="model_spec unset"),
        pytest.param(predict(""), INVALID, "ModelSpec has no name specified.", id="name empty"),
        pytest.param(
            predict(label="absent"), INVALID, "Unrecognized servable version label: absent", id="unknown label"
        ),
        pytest.param(
            predict("absent"),
            grpc.StatusCode.NOT_FOUND,
            "Servable not found for request: Latest(absent)",
            id="unknown model",
        ),
        pytest.param(
            predict(version=99),
            grpc.StatusCode.NOT_FOUND,
            "Servable not found for request: Specific(tiny, 99)",
            id="unknown version",
        ),
        pytest.param(
            predict(label="future"),
            grpc.StatusCode.NOT_FOUND,
            "Servable not found for request: Specific(tiny, 9)",
            id="label of a version that is not loaded",
        ),
        pytest.param(
            predict(signature="absent"),
            grpc.StatusCode.FAILED_PRECONDITION,
            'Serving signature key "absent" not found.',
            id="unknown signature",
        ),
        pytest.param(
            predict(inputs={}),
            INVALID,
            "input size does not match signature: 0!=1 len({}) != len({images}). Sent extra: {}. "
            "Missing but required: {images}.",
            id="too few inputs",
        ),
        pytest.param(
            predict(inputs={"images": images(1), "b": images(1), "a": images(1)}),
            INVALID,
            "input size does not match signature: 3!=1 len({a,b,images}) != len({images}). Sent extra: {a,b}. "
            "Missing but required: {}.",
            id="too many inputs",
        ),
        pytest.param(
            predict(inputs={"pictures": images(1)}),
            INVALID,
            "Signature input alias: images(feed name: images:0) not found in request and no default value provided. "
            "Inputs expected to be in the request {pictures}, or default input alias set: {}",
            id="same count but wrong name",
        ),
        pytest.param(
            predict("tiny", "absent"),
            INVALID,
            "output tensor alias not found in signature: absent Outputs expected to be in the set {early,top}.",
            id="unknown output_filter alias",
        ),
        pytest.param(
            predict("tiny", "top", "top"), INVALID, "duplicate output tensor alias: top", id="duplicate output_filter"
        ),
        pytest.param(
            predict(inputs={"images": images(1).astype(np.float32)}),
            INVALID,
            "Expects arg[0] to be uint8 but float is provided",
            id="wrong dtype",
        ),
    ],
)
def test_1_3_row(client: Client, request_: predict_pb2.PredictRequest, code: grpc.StatusCode, text: str) -> None:
    """Every row has its code and its exact text."""
    assert (code, text) == status_of(lambda: client.predict(request_))


@only_tensorflow
def test_1_3_rows_of_signatures_with_defaults(client: Client) -> None:
    """Fewer inputs and no default for one that is missing; an extra name alongside defaults."""
    missing = (
        "Signature input alias: a(feed name: rows:0) not found in request and no default value provided. "
        "Inputs expected to be in the request {z}, or default input alias set: {b}"
    )
    extra = "Inputs contains invalid name. Used request inputs: {a}, request input: {a,z}"
    for sent, text in (({"z": ONE}, missing), ({"a": ONE, "z": ONE}, extra)):
        request = predict(signature="default", inputs=sent)
        assert (INVALID, text) == status_of(functools.partial(client.predict, request))


@only_tensorflow
def test_1_3_an_input_that_is_left_out_has_its_default(client: Client) -> None:
    """The signature's own: fewer inputs than it names are no error then."""
    answer = client.predict(predict(signature="default", inputs={"a": np.array([3, 4], np.float32)}))

    assert [6, 8] == floats(answer.outputs["product"]).tolist()


def test_1_3_unknown_method(client: Client) -> None:
    """UNIMPLEMENTED, in gRPC's own words."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = client.channel.unary_unary(
        "/tensorflow.serving.PredictionService/Foretell"
    )

    code, _ = status_of(lambda: call(b"", timeout=10))

    assert grpc.StatusCode.UNIMPLEMENTED is code


@only_tensorflow
def test_1_3_dtype_counts_arguments_by_the_name_of_the_tensor(client: Client) -> None:
    """Of two inputs, the second is arg[1]."""
    request = predict(signature="pair", inputs={"a": np.zeros(1, np.float32), "b": np.zeros(1, np.int32)})

    assert (INVALID, "Expects arg[1] to be float but int32 is provided") == status_of(lambda: client.predict(request))


@pytest.mark.parametrize("shape", [(SIDE, SIDE, 3), (), (1, 1, SIDE, SIDE, 3)], ids=["rank 3", "scalar", "rank 5"])
def test_1_3_wrong_rank(client: Client, shape: tuple[int, ...]) -> None:
    """A wrong number of dimensions is the caller's error, and the server survives it (TensorFlow alone would not)."""
    code, text = status_of(lambda: client.predict(predict(inputs={"images": np.zeros(shape, np.uint8)})))

    assert (INVALID, True) == (code, "must be 4-dimensional" in text)
    assert client.predict(predict()).outputs


def test_1_3_wrong_channels_is_the_operations_own_error(client: Client) -> None:
    """The code is fixed; the text belongs to the kernel."""
    request = predict("tiny", "top", inputs={"images": np.zeros((1, SIDE, SIDE, 4), np.uint8)})

    assert INVALID is status_of(lambda: client.predict(request))[0]


@only_tensorflow
def test_1_3_wrong_height_and_width_is_ok(client: Client) -> None:
    """Sizes are never compared with the signature: a 9x7 image is answered. OpenVINO has compiled them in."""
    pixels = np.random.default_rng(1).integers(0, 256, (2, 9, 7, 3), np.uint8)

    answer = client.predict(predict("tiny", "top", inputs={"images": pixels}))

    assert np.allclose(expected_top(pixels, 2), floats(answer.outputs["top"]), rtol=1e-4)


def test_1_3_batch_of_none_is_ok(client: Client) -> None:
    """No image in, no row out."""
    answer = client.predict(predict("tiny", "early", inputs={"images": images(0)}))

    assert [0, 4] == [dim.size for dim in answer.outputs["early"].tensor_shape.dim]


def test_1_3_unparsable_tensor(client: Client) -> None:
    """Bytes that do not fit the shape, no dtype, a negative dimension: each names the input."""
    short, untyped, negative = predict(), predict(), predict()
    short.inputs["images"].tensor_content = b"\0" * 191
    untyped.inputs["images"].dtype = 0
    negative.inputs["images"].tensor_shape.dim[0].size = -1

    answers = {status_of(functools.partial(client.predict, request)) for request in (short, untyped, negative)}

    assert {(INVALID, "tensor parsing error: images")} == answers


def test_1_3_inputs_are_checked_before_outputs(client: Client) -> None:
    """Of two errors, the first in the order of the table is told."""
    request = predict("tiny", "absent", inputs={"images": images(1).astype(np.float32)})
    assert "output tensor alias not found" in status_of(lambda: client.predict(request))[1]

    request = predict("tiny", "absent", inputs={})
    assert "input size does not match" in status_of(lambda: client.predict(request))[1]


def test_1_3_a_long_message_is_cut_at_1024_bytes(client: Client) -> None:
    """And it says that it was."""
    _, text = status_of(lambda: client.predict(predict("x" * 5000)))

    assert 1024 + len("...TRUNCATED") == len(text)
    assert text.endswith("x...TRUNCATED")


@only_tensorflow
def test_1_3_gpu_oom(client: Client) -> None:
    """RESOURCE_EXHAUSTED in the runtime's own words, and the server lives on.

    The row is about a GPU; here the memory that is not to be had, 2**60 bytes, is the processor's. The status takes the
    same way from TensorFlow's allocator to the caller.
    """
    vast = predict(signature="vast", inputs={"rows": np.full(2, 2**29, np.float32)})

    code, text = status_of(lambda: client.predict(vast))

    assert grpc.StatusCode.RESOURCE_EXHAUSTED is code
    assert "OOM when allocating tensor with shape[536870912,536870912]" in text
    assert client.predict(predict()).outputs


@only_tensorflow
def test_1_3_deadline(client: Client) -> None:
    """A run that takes too long ends for its caller when the caller said."""
    assert grpc.StatusCode.DEADLINE_EXCEEDED is status_of(lambda: client.predict(slow(3000), timeout=0.2))[0]


@only_tensorflow
def test_1_7_messages_have_no_limit_worth_mentioning(client: Client) -> None:
    """8 MiB in and out, twice gRPC's default limit."""
    values = np.arange(2**21, dtype=np.float32)
    request = predict("types", signature="float", inputs={})
    request.inputs["x"].CopyFrom(tensor(values))

    answer = client.predict(request)

    assert FLOAT == answer.outputs["y"].dtype
    assert np.array_equal(values, floats(answer.outputs["y"]))
