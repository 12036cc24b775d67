"""Decoding and encoding: what the wire tests of tests/contract/tfserving cannot reach."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorflow.core.framework import tensor_pb2

from microtome.tfserving.v1 import serving_pb2 as pb
from modelserver.errors import Internal, InvalidArgument, ResourceExhausted
from modelserver.tensors.codec import DTYPES, FIELDS, Array, decode, encode, type_name

NUMERIC = [dtype for dtype in DTYPES.values() if dtype.kind in "fiub"]


def _proto(array: Array, *, as_content: bool) -> pb.TensorProto:
    return pb.TensorProto.FromString(encode(array, as_content=as_content).SerializeToString())


@given(
    st.sampled_from(NUMERIC).flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0))),
    st.booleans(),
)
def test_what_is_encoded_decodes_to_the_same_bits(array: Array, as_content: bool) -> None:
    """Any numeric type, any shape, both encodings, not-a-numbers included."""
    back = decode(_proto(array, as_content=as_content), "x")

    assert (array.dtype, array.shape, array.tobytes()) == (back.dtype, back.shape, back.tobytes())


@given(st.lists(st.binary(max_size=300)), st.booleans())
def test_strings_keep_every_byte(strings: list[bytes], as_content: bool) -> None:
    """Trailing zeros and lengths above 127 included."""
    array = np.empty(len(strings), object)
    array[:] = strings

    assert strings == decode(_proto(array, as_content=as_content), "x").tolist()


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("as_content", [False, True])
def test_complex_numbers_travel_as_pairs(dtype: type, as_content: bool) -> None:
    """In both encodings."""
    array: Array = np.array([1 + 2j, -3.5j], dtype)

    assert array.tolist() == decode(_proto(array, as_content=as_content), "x").tolist()


def test_floats_are_written_as_protobuf_writes_a_list() -> None:
    """Shape and values, byte for byte."""
    array = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    theirs = pb.TensorProto(dtype=pb.DT_FLOAT, float_val=array.ravel().tolist())
    for size in array.shape:
        theirs.tensor_shape.dim.add(size=size)

    assert theirs.SerializeToString(deterministic=True) == encode(array, as_content=False).SerializeToString(
        deterministic=True
    )


def test_an_array_that_is_not_contiguous_keeps_its_order() -> None:
    """A transposed view is written as it reads."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T

    assert array.tolist() == decode(_proto(array, as_content=False), "x").tolist()


@pytest.mark.parametrize("content", [b"\x05abc", b"\xff\xff\xff\xff\xff\xff", b"\x01"])
def test_strings_whose_lengths_lie_are_refused(content: bytes) -> None:
    """As any tensor that contradicts itself."""
    proto = pb.TensorProto(dtype=pb.DT_STRING, tensor_content=content)

    with pytest.raises(InvalidArgument, match=r"^INVALID_ARGUMENT: tensor parsing error: words$"):
        decode(proto, "words")


def test_a_shape_that_no_message_could_fill_is_a_bomb() -> None:
    """Forty bytes must not allocate terabytes."""
    proto = pb.TensorProto(dtype=pb.DT_FLOAT, float_val=[0])
    for size in (2**20, 2**20):
        proto.tensor_shape.dim.add(size=size)

    with pytest.raises(ResourceExhausted, match=r"OOM when allocating tensor with shape\[1048576,1048576\]"):
        decode(proto, "x")


@given(st.sampled_from(sorted(FIELDS)), st.integers(0, 4), st.data())
def test_every_encoding_is_read_as_tensorflow_reads_it(number: int, count: int, data: st.DataObject) -> None:
    """Values without number, too few, too many, out of the type's range, odd halves of pairs: bit by bit the same."""
    kind = tf.as_dtype(number).name
    entry = {"float_val": st.floats(width=32), "double_val": st.floats(), "string_val": st.binary(max_size=3),
             "scomplex_val": st.floats(width=32), "dcomplex_val": st.floats(), "bool_val": st.booleans(),
             "int_val": st.integers(-(2**31), 2**31 - 1), "half_val": st.integers(-(2**31), 2**31 - 1),
             "int64_val": st.integers(-(2**63), 2**63 - 1), "uint32_val": st.integers(0, 2**32 - 1),
             "uint64_val": st.integers(0, 2**64 - 1)}[FIELDS[number]]  # fmt: skip
    theirs = tensor_pb2.TensorProto(dtype=number, **{FIELDS[number]: data.draw(st.lists(entry, max_size=6))})
    theirs.tensor_shape.dim.add(size=count)

    expected = tf.io.parse_tensor(theirs.SerializeToString(), tf.as_dtype(number)).numpy()
    found = decode(pb.TensorProto.FromString(theirs.SerializeToString()), "x")

    assert expected.tolist() == found.tolist() or expected.tobytes() == found.tobytes(), kind


def test_a_type_that_cannot_be_sent_is_our_defect() -> None:
    """Dates, for example."""
    with pytest.raises(Internal, match="datetime64"):
        encode(np.array(["2026-01-01"], "datetime64[D]"), as_content=False)


def test_types_have_tensorflows_names() -> None:
    """And unknown ones a number."""
    assert ("float", "half", "dtype 99") == (type_name(1), type_name(19), type_name(99))
