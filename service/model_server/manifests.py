"""Read a model's manifest from the bytes that its `manifest` signature returns."""

from pydantic import TypeAdapter, ValidationError

from microtome.manifest import Manifest
from microtome.tfserving.v1.predict_pb2 import PredictResponse
from service.errors import ModelServerFault
from service.model_server.codec import query_tensor
from service.model_server.replicas import Replicas

_ADAPTER = TypeAdapter(Manifest)


async def fetch_manifest(servers: Replicas, model: str, version: int, *, timeout: float) -> Manifest:  # noqa: ASYNC109
    """Ask a version of a model for its own description.

    Raises:
        ServiceError: as the model server says it, see `statuses.py`.
        ModelServerFault: no manifest, or one that we cannot read.
    """
    answer = await servers.predict(model, version, "manifest", {"query": query_tensor()}, [], timeout=timeout)
    return read_manifest(model, answer)


def read_manifest(model: str, answer: PredictResponse) -> Manifest:
    """Parse and check the manifest.

    Fields that we do not know are ignored, so that a newer exporter can add some; a newer `schema` is refused.

    Raises:
        ModelServerFault: no manifest, or one that we cannot read.
    """
    tensor = answer.outputs.get("manifest")
    if tensor is None or not tensor.string_val:
        # With tensor_content, strings are varint lengths followed by the bytes; ours is one string.
        raw = _single_string(tensor.tensor_content) if tensor is not None else b""
    else:
        raw = tensor.string_val[0]
    try:
        manifest = _ADAPTER.validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise ModelServerFault(
            f"Model {model!r} has a manifest that we cannot read: {where}: {first['msg']}."
        ) from error
    if min(manifest.input.height, manifest.input.width, manifest.max_batch_size) < 1:
        raise ModelServerFault(f"Model {model!r} has a manifest with a size or a largest batch of nothing.")
    if manifest.default_output not in {output.name for output in manifest.outputs}:
        raise ModelServerFault(f"Model {model!r} names a default output that it does not have.")
    return manifest


def _single_string(content: bytes) -> bytes:
    """Drop the varint length in front of the only string of a tensor_content."""
    for end, byte in enumerate(content, start=1):
        if byte < 0x80:
            return content[end:]
    return b""
