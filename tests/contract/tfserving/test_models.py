"""GetModelMetadata, GetModelStatus and the methods that are left out: sections 1.4, 1.5 and 11.11 of the reference."""

from __future__ import annotations

import grpc
import pytest
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    regression_pb2,
)

from tests.contract.tfserving.server_process import Client, status_of

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE


def _metadata(
    model: str | None, *fields: str, version: int | None = None
) -> get_model_metadata_pb2.GetModelMetadataRequest:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    if model is not None:
        request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = version
    return request


def _status(model: str | None, version: int | None = None) -> get_model_status_pb2.GetModelStatusRequest:
    request = get_model_status_pb2.GetModelStatusRequest()
    if model is not None:
        request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = version
    return request


def test_1_4_metadata_holds_every_signature(client: Client) -> None:
    """Packed in an Any, with the version that was meant and without a signature name."""
    answer = client.prediction.GetModelMetadata(_metadata("tiny", "signature_def"), timeout=10)

    assert "type.googleapis.com/tensorflow.serving.SignatureDefMap" == answer.metadata["signature_def"].type_url
    signatures = get_model_metadata_pb2.SignatureDefMap.FromString(answer.metadata["signature_def"].value).signature_def
    names = {"serving_default", "manifest", "work", "whole", "sum", "first", "pair", "default", "vast"}
    assert names == set(signatures)
    images = signatures["serving_default"].inputs["images"]
    assert ("images:0", [-1, 8, 8, 3]) == (images.name, [dim.size for dim in images.tensor_shape.dim])
    assert ("tiny", 2, "") == (
        answer.model_spec.name, answer.model_spec.version.value, answer.model_spec.signature_name,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (_metadata(None), INVALID, "Missing ModelSpec"),
        (_metadata("tiny"), INVALID, "GetModelMetadataRequest must specify at least one metadata_field"),
        (_metadata("tiny", "colour"), INVALID, "Metadata field colour is not supported"),
        (_metadata("absent", "signature_def"), NOT_FOUND, "Servable not found for request: Latest(absent)"),
        (
            _metadata("tiny", "signature_def", version=9),
            NOT_FOUND,
            "Servable not found for request: Specific(tiny, 9)",
        ),
    ],
)
def test_1_4_errors(
    client: Client, request_: get_model_metadata_pb2.GetModelMetadataRequest, code: grpc.StatusCode, text: str
) -> None:
    """In this order, with these texts."""
    assert (code, text) == status_of(lambda: client.prediction.GetModelMetadata(request_, timeout=10))


def test_1_5_versions_come_in_descending_order(client: Client) -> None:
    """Each with its state and an empty status."""
    answer = client.models.GetModelStatus(_status("tiny"), timeout=10)

    assert [(2, AVAILABLE, 0, ""), (1, AVAILABLE, 0, "")] == [
        (status.version, status.state, status.status.error_code, status.status.error_message)
        for status in answer.model_version_status
    ]


def test_1_5_a_version_means_that_one_and_a_label_is_ignored(client: Client) -> None:
    """Asking by label gives all versions."""
    assert [1] == [
        status.version for status in client.models.GetModelStatus(_status("tiny", 1), timeout=10).model_version_status
    ]
    labelled = _status("tiny")
    labelled.model_spec.version_label = "stable"
    assert 2 == len(client.models.GetModelStatus(labelled, timeout=10).model_version_status)


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (_status(None), INVALID, "Missing ModelSpec"),
        (_status(""), NOT_FOUND, "Could not find any versions of model "),
        (_status("absent"), NOT_FOUND, "Could not find any versions of model absent"),
        (_status("tiny", 9), NOT_FOUND, "Could not find version 9 of model tiny"),
    ],
)
def test_1_5_errors(
    client: Client, request_: get_model_status_pb2.GetModelStatusRequest, code: grpc.StatusCode, text: str
) -> None:
    """With these texts."""
    assert (code, text) == status_of(lambda: client.models.GetModelStatus(request_, timeout=10))


def test_11_11_what_no_embedding_needs_is_unimplemented(client: Client) -> None:
    """Classify, Regress and MultiInference."""
    stub = client.prediction
    codes = [
        status_of(lambda: stub.Classify(classification_pb2.ClassificationRequest(), timeout=10))[0],
        status_of(lambda: stub.Regress(regression_pb2.RegressionRequest(), timeout=10))[0],
        status_of(lambda: stub.MultiInference(inference_pb2.MultiInferenceRequest(), timeout=10))[0],
    ]

    assert [grpc.StatusCode.UNIMPLEMENTED] * 3 == codes
