"""How tensors cross the wire: section 1.8 of the reference, for every element type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

from tests.contract.tfserving.requests import floats, predict
from tests.contract.tfserving.server_process import Client
from tests.contract.tfserving.tiny_models import EARLY, SIDE, TYPES, expected_early


@dataclass(frozen=True)
class Wire:
    """How three values of a type look on the wire: its number, its field, the field's entries, the raw bytes."""

    number: int
    field: str
    entries: list[Any]
    content: bytes


def _wire(number: int, field: str, dtype: Any, values: list[Any], entries: list[Any] | None = None) -> Wire:
    return Wire(number, field, entries or values, np.array(values, dtype).tobytes())


WIRE = {
    "float": _wire(1, "float_val", np.float32, [1.5, -2.25, 2.0**100]),
    "double": _wire(2, "double_val", np.float64, [1.5, -2.25, 3e300]),
    "int32": _wire(3, "int_val", np.int32, [1, -2, 2**31 - 1]),
    "uint8": _wire(4, "int_val", np.uint8, [1, 2, 255]),
    "int16": _wire(5, "int_val", np.int16, [1, -2, 32767]),
    "int8": _wire(6, "int_val", np.int8, [1, -2, 127]),
    "string": Wire(7, "string_val", [b"a", b"", b"\0\xff"], b"\x01\x00\x02a\0\xff"),
    "int64": _wire(9, "int64_val", np.int64, [1, -2, 2**62]),
    "bool": _wire(10, "bool_val", np.bool_, [True, False, True]),
    "bfloat16": _wire(14, "half_val", ml_dtypes.bfloat16, [1.0, -2.0, 0.5], [0x3F80, 0xC000, 0x3F00]),
    "half": _wire(19, "half_val", np.float16, [1.0, -2.0, 0.5], [0x3C00, 0xC000, 0x3800]),
    "uint32": _wire(22, "uint32_val", np.uint32, [1, 2, 2**32 - 1]),
    "uint64": _wire(23, "uint64_val", np.uint64, [1, 2, 2**64 - 1]),
}


def _proto(wire: Wire, size: Any = 3, **fields: Any) -> tensor_pb2.TensorProto:
    proto = tensor_pb2.TensorProto(dtype=wire.number, **fields)
    proto.tensor_shape.dim.add(size=size)
    return proto


def _echo(client: Client, kind: str, proto: tensor_pb2.TensorProto) -> tensor_pb2.TensorProto:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "types", kind
    request.inputs["x"].CopyFrom(proto)
    return client.predict(request).outputs["y"]


def test_every_type_of_the_model_is_tried() -> None:
    """The table above forgets none."""
    assert set(TYPES) == set(WIRE)


@pytest.mark.parametrize("kind", TYPES)
def test_1_8_values_of_the_types_own_field_come_back_in_it(client: Client, kind: str) -> None:
    """Entries in, the same entries out; the shape is set, tensor_content is not used by default."""
    wire = WIRE[kind]

    answer = _echo(client, kind, _proto(wire, **{wire.field: wire.entries}))

    assert _proto(wire, **{wire.field: wire.entries}) == answer


@pytest.mark.parametrize("kind", TYPES)
def test_1_8_raw_bytes_mean_the_same(client: Client, kind: str) -> None:
    """tensor_content in, the type's own field out."""
    wire = WIRE[kind]

    answer = _echo(client, kind, _proto(wire, tensor_content=wire.content))

    assert wire.entries == list(getattr(answer, wire.field))


@pytest.mark.parametrize("kind", TYPES)
def test_1_8_with_the_flag_answers_are_raw_bytes(batching_client: Client, kind: str) -> None:
    """--enable_serialization_as_tensor_content: no repeated field is used."""
    wire = WIRE[kind]

    answer = _echo(batching_client, kind, _proto(wire, **{wire.field: wire.entries}))

    assert _proto(wire, tensor_content=wire.content) == answer


@pytest.mark.parametrize("kind", TYPES)
def test_1_8_too_few_values_repeat_the_last(client: Client, kind: str) -> None:
    """The broadcast that makes warm-up records small."""
    wire = WIRE[kind]
    first, second, _ = wire.entries

    answer = _echo(client, kind, _proto(wire, 5, **{wire.field: [first, second]}))

    assert [first, second, second, second, second] == list(getattr(answer, wire.field))


@pytest.mark.parametrize("kind", TYPES)
def test_1_8_surplus_values_are_ignored(client: Client, kind: str) -> None:
    """Three values for a shape of two."""
    wire = WIRE[kind]

    answer = _echo(client, kind, _proto(wire, 2, **{wire.field: wire.entries}))

    assert wire.entries[:2] == list(getattr(answer, wire.field))


@pytest.mark.parametrize("kind", TYPES)
def test_1_8_no_value_or_one_in_the_wrong_field_means_zeros(client: Client, kind: str) -> None:
    """Silently, as TensorFlow does."""
    wire = WIRE[kind]
    wrong = {"scomplex_val": [1.0]}
    zero = b"" if kind == "string" else 0

    assert [zero, zero] == list(getattr(_echo(client, kind, _proto(wire, 2)), wire.field))
    assert [zero, zero] == list(getattr(_echo(client, kind, _proto(wire, 2, **wrong)), wire.field))


def test_1_8_raw_bytes_win_over_values(client: Client) -> None:
    """When both are present."""
    wire = WIRE["float"]

    answer = _echo(client, "float", _proto(wire, tensor_content=wire.content, float_val=[9.0]))

    assert np.array_equal(np.frombuffer(wire.content, np.float32), floats(answer))


def test_1_8_no_shape_means_a_scalar(client: Client) -> None:
    """And so does an unknown rank; the answer's shape is there, and empty."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "tiny", "whole"
    for proto in (
        tensor_pb2.TensorProto(dtype=1, float_val=[41.0]),
        tensor_pb2.TensorProto(dtype=1, float_val=[41.0], tensor_shape={"unknown_rank": True}),
    ):
        request.inputs["whole"].CopyFrom(proto)

        answer = client.predict(request).outputs["whole"]

        assert (42.0, True, 0) == (answer.float_val[0], answer.HasField("tensor_shape"), len(answer.tensor_shape.dim))


def test_1_8_a_batch_of_blank_images_fits_in_a_few_bytes(client: Client) -> None:
    """One int_val and a shape: sixteen black images in fewer than 100 bytes."""
    request = predict("tiny", "early", inputs={})
    request.inputs["images"].CopyFrom(tensor_pb2.TensorProto(dtype=4, int_val=[0]))
    for size in (16, SIDE, SIDE, 3):
        request.inputs["images"].tensor_shape.dim.add(size=size)
    assert request.ByteSize() < 100

    answer = client.predict(request)

    assert (16, EARLY) == floats(answer.outputs["early"]).shape
    assert np.array_equal(expected_early(np.zeros((16, SIDE, SIDE, 3)), 2), floats(answer.outputs["early"]))
