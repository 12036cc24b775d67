"""What is written by hand is what protobuf would write."""

import numpy as np
import orjson
import pytest
from google.protobuf.wrappers_pb2 import Int64Value

from microtome.errors import ModelServerFault
from microtome.tfserving.v1.predict_pb2 import ModelSpec, PredictRequest, PredictResponse
from microtome.tfserving.v1.tensor_pb2 import DataType, Tensor, TensorShape
from service.model_server.predict_encoding import pixels_tensor, predict_request, query_tensor, read_manifest
from tests.fakes.model_server import card


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("side", [0, 1, 6, 7, 74, 224])
def test_a_request_around_pixels_reads_as_the_message_that_it_stands_for(count: int, side: int) -> None:
    """With contents of lengths around the powers of 128, where the way in which lengths are written changes."""
    images = [np.random.default_rng(n).integers(0, 256, (side, side, 3), np.uint8) for n in range(count)]
    spec = ModelSpec(name="größe", version=Int64Value(value=7), signature_name="serving_default")
    written = predict_request(spec, {"images": pixels_tensor(images)}, ["top", "block5"])
    sizes = (count, side, side, 3)
    expected = PredictRequest(
        model_spec=spec,
        inputs={
            "images": Tensor(
                dtype=DataType.DATA_TYPE_UINT8,
                tensor_shape=TensorShape(dim=[TensorShape.Dim(size=size) for size in sizes]),
                tensor_content=np.stack(images).tobytes(),
            )
        },
        output_filter=["top", "block5"],
    )
    assert expected == PredictRequest.FromString(written)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"jpeg_draft": True}, "balanced"),
        ({"jpeg_draft": False}, "exact"),
        *(({"decode": way}, way) for way in ("exact", "balanced", "fast")),
    ],
)
def test_manifests_from_before_decode_are_read(said: dict[str, object], meant: str) -> None:
    """`jpeg_draft` keeps its meaning for ever; a way of decoding that is not known is refused."""
    document = orjson.loads(orjson.dumps(card().manifest))
    del document["input"]["decode"]
    document["input"] |= said
    answer = PredictResponse(outputs={"manifest": Tensor(string_val=[orjson.dumps(document)])})
    assert read_manifest("toy", answer).pixels.decode == meant
    document["input"]["decode"] = "sloppy"
    answer = PredictResponse(outputs={"manifest": Tensor(string_val=[orjson.dumps(document)])})
    with pytest.raises(ModelServerFault, match=r"input\.decode"):
        read_manifest("toy", answer)


def test_the_manifest_is_asked_for_with_one_number() -> None:
    """No outputs named means all of them."""
    read = PredictRequest.FromString(predict_request(ModelSpec(name="m"), {"query": query_tensor()}, []))
    assert b"\0\0\0\0" == read.inputs["query"].tensor_content
    assert [1] == [dim.size for dim in read.inputs["query"].tensor_shape.dim]
    assert [] == list(read.output_filter)
