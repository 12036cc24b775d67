"""The Open Inference Protocol over gRPC, asked with messages of our own. Its real clients: tests/clients."""

import struct
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from microtome.inference.v2 import inference_pb2 as pb
from microtome.v1 import embedding_pb2
from service.grpc.kserve import SERVICE
from tests.fakes.model_server import SIZE, classes_card
from tests.pictures import png, solid
from tests.unit.service.grpc.conftest import Service


async def ask(service: Service, method: str, request: Message, kind: Any) -> Any:
    """Call a method."""
    call: Any = service.channel.unary_unary(
        f"/{SERVICE}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=kind.FromString,
    )
    return await call(request, timeout=10)


def inferring(*images: bytes, **more: Any) -> pb.ModelInferRequest:
    """A request with raw contents."""
    raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
    entry = pb.InferInputTensor(name="image", datatype="BYTES", shape=[len(images)])
    return pb.ModelInferRequest(model_name="toy", inputs=[entry], raw_input_contents=[raw], **more)


def vectors(answer: pb.ModelInferResponse, number: int = 0) -> Any:
    """One output of an answer."""
    return np.frombuffer(answer.raw_output_contents[number], "<f4").reshape(answer.outputs[number].shape)


async def test_raw_contents_in_raw_contents_out(service: Service) -> None:
    """A vector for each image, in their order, equal to what each gives alone; the id comes back."""
    both = await ask(service, "ModelInfer", inferring(png(1), png(2), id="mine"), pb.ModelInferResponse)
    assert ("toy", "1", "mine", "mean", "FP32") == (
        both.model_name,
        both.model_version,
        both.id,
        both.outputs[0].name,
        both.outputs[0].datatype,
    )
    for number, image in enumerate((png(1), png(2))):
        alone = await ask(service, "ModelInfer", inferring(image), pb.ModelInferResponse)
        np.testing.assert_array_equal(vectors(both)[number], vectors(alone)[0])


async def test_lists_of_values_are_read_as_well(service: Service) -> None:
    """Encoded images in bytes_contents, pixels in uint_contents."""
    contents = pb.InferTensorContents(bytes_contents=[png(1)])
    entry = pb.InferInputTensor(name="image", datatype="BYTES", shape=[1], contents=contents)
    listed = await ask(
        service, "ModelInfer", pb.ModelInferRequest(model_name="toy", inputs=[entry]), pb.ModelInferResponse
    )
    raw = await ask(service, "ModelInfer", inferring(png(1)), pb.ModelInferResponse)
    np.testing.assert_array_equal(vectors(listed), vectors(raw))
    pixels = pb.InferTensorContents(uint_contents=[9] * (SIZE * SIZE * 3))
    entry = pb.InferInputTensor(name="image", datatype="UINT8", shape=[1, SIZE, SIZE, 3], contents=pixels)
    drawn = await ask(
        service, "ModelInfer", pb.ModelInferRequest(model_name="toy", inputs=[entry]), pb.ModelInferResponse
    )
    assert [[9.0] * 3] == vectors(drawn).tolist()


async def test_outputs_and_parameters(service: Service) -> None:
    """Several layers by their names; a cut."""
    outputs = [pb.InferRequestedOutputTensor(name=name) for name in ("corner", "mean")]
    parameters = {"dimensions": pb.InferParameter(int64_param=2), "datatype": pb.InferParameter(string_param="FP32")}
    answer = await ask(
        service, "ModelInfer", inferring(png(1), outputs=outputs, parameters=parameters), pb.ModelInferResponse
    )
    assert [("corner", [1, 2]), ("mean", [1, 2])] == [(o.name, list(o.shape)) for o in answer.outputs]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"model_name": "nix"}, grpc.StatusCode.NOT_FOUND, "toy"),
        ({"model_version": "x"}, grpc.StatusCode.INVALID_ARGUMENT, "version's number"),
        ({"inputs": []}, grpc.StatusCode.INVALID_ARGUMENT, "0 inputs"),
        ({"raw_input_contents": [b"\xff\xff\xff\xff"]}, grpc.StatusCode.INVALID_ARGUMENT, "1 elements"),
        ({"parameters": {"x": pb.InferParameter()}}, grpc.StatusCode.INVALID_ARGUMENT, "Known: normalize"),
    ],
)
async def test_errors_have_the_status_of_our_own_service(
    service: Service, change: dict[str, Any], code: grpc.StatusCode, words: str
) -> None:
    """And name what was expected."""
    request = inferring(png(1))
    for name, value in change.items():
        request.ClearField(name)
        request.MergeFrom(pb.ModelInferRequest(**{name: value}))
    with pytest.raises(grpc.RpcError) as raised:
        await ask(service, "ModelInfer", request, pb.ModelInferResponse)
    assert raised.value.code() is code
    assert words in (raised.value.details() or "")


async def test_server_and_model_describe_themselves(service: Service) -> None:
    """Live, ready, and which tensors there are."""
    assert (await ask(service, "ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)).live
    assert (await ask(service, "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)).ready
    assert (await ask(service, "ModelReady", pb.ModelReadyRequest(name="toy"), pb.ModelReadyResponse)).ready
    told = await ask(service, "ModelMetadata", pb.ModelMetadataRequest(name="toy"), pb.ModelMetadataResponse)
    assert [("image", "BYTES", [-1])] == [(t.name, t.datatype, list(t.shape)) for t in told.inputs]
    assert [("mean", [-1, 3]), ("corner", [-1, 4])] == [(t.name, list(t.shape)) for t in told.outputs]
    server = await ask(service, "ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    assert server.name == "microtome"


async def test_models_tell_every_version_that_can_be_asked(service: Service) -> None:
    """In both contracts; one that is being loaded or unloaded is none of them."""
    service.server.others = {3: "available", 2: "loading", 7: "end"}
    request = pb.ModelMetadataRequest(name="toy")
    assert ["1", "3"] == list((await ask(service, "ModelMetadata", request, pb.ModelMetadataResponse)).versions)
    (listed,) = (await service.stub.ListModels(embedding_pb2.ListModelsRequest())).models
    assert (1, [1, 3]) == (listed.version, list(listed.versions))
    found = await service.stub.GetModel(embedding_pb2.GetModelRequest(name="toy"))
    assert listed == found.model


async def test_classification_answers_strings(service: Service) -> None:
    """Triton's extension, as over REST."""
    service.server.current = classes_card()
    count = {"classification": pb.InferParameter(int64_param=1)}
    output = pb.InferRequestedOutputTensor(name="mean", parameters=count)
    answer = await ask(service, "ModelInfer", inferring(solid((10, 20, 30)), outputs=[output]), pb.ModelInferResponse)
    assert ("BYTES", [1, 1]) == (answer.outputs[0].datatype, list(answer.outputs[0].shape))
    assert b"\x0f\0\0\0" + b"0.999955:2:blue" == answer.raw_output_contents[0]
