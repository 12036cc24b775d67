"""GetModelMetadata and GetModelStatus, without a transport."""

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from modelserver.catalogue import Catalogue
from modelserver.errors import InvalidArgument

SIGNATURE_DEF = "signature_def"


def model_metadata(
    catalogue: Catalogue, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Answer a ``GetModelMetadataRequest`` with all signatures of the version it means.

    Raises:
        InvalidArgument: No model_spec, or a field other than ``signature_def``.
        NotFound: The version is not loaded.
    """
    if not request.HasField("model_spec"):
        raise InvalidArgument("Missing ModelSpec")
    if not request.metadata_field:
        raise InvalidArgument("GetModelMetadataRequest must specify at least one metadata_field")
    for name in request.metadata_field:
        if name != SIGNATURE_DEF:
            raise InvalidArgument(f"Metadata field {name} is not supported")
    servable = catalogue.find(request.model_spec)
    definitions = get_model_metadata_pb2.SignatureDefMap()
    for key, definition in servable.model.signature_defs.items():
        definitions.signature_def[key].CopyFrom(definition)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    response.metadata[SIGNATURE_DEF].Pack(definitions)
    return response


def model_status(
    catalogue: Catalogue, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """Answer a ``GetModelStatusRequest``; a version label is ignored, as the real server does.

    Raises:
        InvalidArgument: No model_spec.
        NotFound: Nothing is known of the model or the version.
    """
    if not request.HasField("model_spec"):
        raise InvalidArgument("Missing ModelSpec")
    spec = request.model_spec
    version = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
    response = get_model_status_pb2.GetModelStatusResponse()
    for record in catalogue.records(spec.name, version):
        status = response.model_version_status.add(version=record.version, state=int(record.state))
        status.status.error_code = int(record.error.code) if record.error else 0
        status.status.error_message = record.error.message if record.error else ""
    return response
