"""Requests and answers that protobuf does not see whole: in every case what protobuf would have made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

from modelserver import predict_request
from modelserver.predict_answer import write_answer
from modelserver.predict_request import LEAST_LIFTED, LONGEST_HEAD, MOST_HEADS, RequestReader
from modelserver.tensor_decoding import Array
from modelserver.tensor_types import TYPES
from modelserver.wire_fields import opening, varint

UINT8, STRING = 4, 7
LARGE = bytes(range(256)) * (LEAST_LIFTED // 256)


def _request(content: bytes = LARGE, alias: str = "images", dtype: int = UINT8, **spec: Any) -> Any:
    request = predict_pb2.PredictRequest(output_filter=["top"])
    request.model_spec.name = "tiny"
    for name, value in spec.items():
        setattr(request.model_spec, name, value)
    tensor = request.inputs[alias]
    tensor.dtype, tensor.tensor_content = dtype, content
    tensor.tensor_shape.dim.add(size=len(content))
    return request


def _whole(reader: RequestReader, data: bytes) -> Any:
    """Read a request, and put back what was lifted out of it."""
    found = reader.read(data)
    message = predict_pb2.PredictRequest()
    message.CopyFrom(found.head.message)
    for alias, content in found.contents.items():
        assert not message.inputs[alias].tensor_content
        message.inputs[alias].tensor_content = bytes(content)
    return message


def _agrees(reader: RequestReader, data: bytes) -> None:
    """Hold a reader to protobuf: the same message, or a refusal by both."""
    try:
        expected = predict_pb2.PredictRequest.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            reader.read(data)
        return
    assert expected == _whole(reader, data)


_WORDS = st.sampled_from(["", "a", "images", "größe", "x" * 200])
_CONTENTS = st.sampled_from([b"", b"abc", LARGE, LARGE * 2, opening(2, 9) + LARGE, bytes(2 * LEAST_LIFTED)])
_TENSORS = st.builds(
    lambda dtype, sizes, content, values: tensor_pb2.TensorProto(
        dtype=dtype, tensor_shape={"dim": [{"size": n} for n in sizes]}, tensor_content=content, int_val=values
    ),
    st.sampled_from([0, *TYPES]), st.lists(st.integers(-1, 5), max_size=3), _CONTENTS,
    st.lists(st.integers(-2, 300), max_size=3),
)  # fmt: skip
_REQUESTS = st.builds(
    lambda name, version, inputs, outputs: predict_pb2.PredictRequest(
        model_spec=None if name is None else {"name": name, "version": version and {"value": version}},
        inputs=inputs, output_filter=outputs,
    ),
    st.none() | _WORDS, st.none() | st.integers(1, 2**40), st.dictionaries(_WORDS, _TENSORS, max_size=3),
    st.lists(_WORDS, max_size=2),
)  # fmt: skip


@given(st.lists(_REQUESTS, min_size=1, max_size=4), st.data())
def test_what_is_read_is_what_protobuf_reads(requests: list[Any], data: st.DataObject) -> None:
    """Any request, and any two of them one behind the other, which protobuf merges; the second time from memory."""
    reader = RequestReader()
    wires = [request.SerializeToString() for request in requests]
    wires.append(wires[0] + data.draw(st.sampled_from(wires)))

    for wire in (*wires, *wires):
        _agrees(reader, wire)


@given(st.data())
def test_damaged_requests_are_read_or_refused_as_by_protobuf(data: st.DataObject) -> None:
    """Bytes changed, left out or put in around the pixels, before and after the reader has seen the like undamaged."""
    wire = bytearray(_request(signature_name="s").SerializeToString())
    reader = RequestReader()
    if data.draw(st.booleans()):
        reader.read(bytes(wire))
    start = wire.index(LARGE)
    around = [*range(start), *range(start + len(LARGE), len(wire))]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(around))
        wire[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))

    _agrees(reader, bytes(wire))


@given(st.lists(st.sampled_from(["tag", "length"]), min_size=1, max_size=3))
def test_numbers_longer_than_needed_are_protobufs(lengthened: list[str]) -> None:
    """Protobuf takes some of them and refuses others; no reader of ours has an opinion."""
    tensor = tensor_pb2.TensorProto(dtype=UINT8).SerializeToString()
    for kind in lengthened:
        tag, length = varint(4 << 3 | 2), varint(len(LARGE))
        for _ in range(5):
            tag, length = (_longer(tag), length) if kind == "tag" else (tag, _longer(length))
            value = tensor + tag + length + LARGE
            entry = opening(1, 1) + b"x" + opening(2, len(value)) + value
            _agrees(RequestReader(), opening(2, len(entry)) + entry)


def _longer(number: bytes) -> bytes:
    return number[:-1] + bytes([number[-1] | 0x80, 0])


def test_pixels_are_not_copied_and_a_known_head_is_not_parsed_again() -> None:
    """Which is what all this is for."""
    reader = RequestReader()
    first, second = (_request(content).SerializeToString() for content in (LARGE, LARGE[::-1]))

    one, other = reader.read(first), reader.read(second)

    assert one.head is other.head
    assert (first, second) == (one.content.obj, other.content.obj)
    assert (LARGE, LARGE[::-1]) == (bytes(one.content), bytes(other.content))


def test_requests_of_the_same_length_do_not_meet() -> None:
    """Other names, inputs and versions, pixels in another place: each gets its own head, in whatever turn they come."""
    reader = RequestReader()
    requests = [
        _request(name="tina"), _request(alias="imagos"), _request(signature_name="s"), _request(version_label="s"),
        _request(name="tin", alias="imagess"), _request(name="tinyy", alias="image"),
    ]  # fmt: skip
    wires = [request.SerializeToString() for request in requests]
    assert 1 < len(wires) - len({len(wire) for wire in wires})

    for _ in range(3):
        assert requests == [_whole(reader, wire) for wire in wires]


def test_what_stands_behind_the_pixels_counts_too() -> None:
    """Writers may put fields in any order, so two requests may begin alike and end differently."""
    reader = RequestReader()
    entry = predict_pb2.PredictRequest(inputs=_request().inputs).SerializeToString()
    specs = [predict_pb2.PredictRequest(model_spec={"name": name}).SerializeToString() for name in ("a", "b")]

    assert ["a", "b"] == [_whole(reader, entry + spec).model_spec.name for spec in specs]


@pytest.mark.parametrize(
    "request_",
    [
        _request(LARGE[1:]),
        _request(LARGE, "x" * LONGEST_HEAD),
        _request(LARGE, dtype=STRING),
        _request(LARGE, dtype=99),
    ],
    ids=["small", "long head", "strings", "no such type"],
)
def test_what_is_not_worth_it_stays_whole(request_: Any) -> None:
    """The head is the whole message then, and nothing is remembered of it."""
    reader = RequestReader()
    data = request_.SerializeToString()

    found = reader.read(data)

    assert (request_, None, {}) == (found.head.message, found.head.lifted, found.contents)
    assert found.head is not reader.read(data).head


def test_memory_for_heads_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names a new model with every request makes the server forget, not grow."""
    monkeypatch.setattr(predict_request, "MOST_HEADS", 3)
    assert MOST_HEADS > 3
    reader = RequestReader()

    for number in range(10):
        request = _request(name=f"{number}" * (number + 1))
        assert request == _whole(reader, request.SerializeToString())
        assert len(reader._heads) <= 3 >= len(reader._places)


_ARRAYS = st.sampled_from([row.dtype for row in TYPES.values() if row.dtype.kind in "fiub"]).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_dims=3))
)


@given(st.dictionaries(_WORDS, _ARRAYS, max_size=3), _WORDS, st.integers(0, 2**62), st.booleans())
def test_answers_are_what_protobuf_writes(outputs: dict[str, Array], name: str, version: int, as_content: bool) -> None:
    """Outputs of any type and shape, read by protobuf, are those that were written value by value."""
    expected = predict_pb2.PredictResponse(
        model_spec={"name": name, "version": {"value": version}, "signature_name": "s"}
    )
    for alias, array in outputs.items():
        tensor = expected.outputs[alias]
        (row,) = (row for row in TYPES.values() if row.dtype == array.dtype)
        tensor.dtype = row.number
        tensor.tensor_shape.SetInParent()
        for size in array.shape:
            tensor.tensor_shape.dim.add(size=size)
        if as_content:
            tensor.tensor_content = array.tobytes()
        else:
            bits = array.view(np.uint16) if row.field == "half_val" else array
            getattr(tensor, row.field).extend(bits.reshape(-1).tolist())

    found = write_answer(name, version, "s", outputs, as_content=as_content)

    # By their bytes: not-a-numbers are not equal to themselves.
    parsed = predict_pb2.PredictResponse.FromString(found)
    assert expected.SerializeToString(deterministic=True) == parsed.SerializeToString(deterministic=True)
    assert len(expected.SerializeToString()) == len(found)
