"""Bodies of the protocol over REST: JSON, or JSON followed by the tensors' bytes (the binary tensor data extension)."""

import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from service.errors import BadRequest
from service.inference_protocol.tensors import Tensor, element

HEADER = "inference-header-content-length"
_FIELDS = {"id", "parameters", "inputs", "outputs"}
_IGNORED = {"model_name", "model_version"}
"""kserve's client repeats the path's names in the body."""

_NUMPY = {"FP32": "<f4", "FP16": "<f2", "INT8": "i1"}


@dataclass(frozen=True, slots=True)
class Body:
    """What a request holds.

    Attributes:
        identity: comes back in the answer; None when it had none.
        binary: for each output asked for, whether its bytes shall follow the JSON.
        binary_unless_said: the same where nothing is said.
    """

    identity: str | None
    parameters: Mapping[str, object]
    inputs: Sequence[Tensor]
    outputs: Sequence[str]
    binary: Mapping[str, bool]
    binary_unless_said: bool


def read(body: bytes, header_length: str | None) -> Body:
    """Read a request.

    Args:
        body: as it came.
        header_length: of the header `Inference-Header-Content-Length`: bytes of JSON at the beginning. 0 means that the
            body is the only image; None that all of it is JSON.

    Raises:
        BadRequest: not what the protocol has.
    """
    if header_length is None:
        return _read(body, b"")
    if not (header_length.isascii() and header_length.isdecimal() and int(header_length[:18]) <= len(body)):
        raise BadRequest(
            f"Expected Inference-Header-Content-Length from 0 to {len(body)}, the bytes of JSON at the body's "
            f"beginning; received {header_length[:40]!r}."
        )
    length = int(header_length)
    if length == 0:
        return Body(None, {}, [Tensor("image", "BYTES", (1,), element(body))], (), {}, binary_unless_said=False)
    return _read(body[:length], body[length:])


def _read(head: bytes, rest: bytes) -> Body:
    try:
        value = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"Expected a JSON object, received what is no JSON: {error}.") from None
    if not isinstance(value, dict) or not value.keys() <= _FIELDS | _IGNORED:
        raise BadRequest(f"Expected a JSON object with some of {', '.join(sorted(_FIELDS))}, and nothing else.")
    parameters = dict(_object(value.get("parameters"), "parameters"))
    binary_unless_said = parameters.pop("binary_data_output", False) is True
    inputs, at = [], 0
    for entry in _objects(value.get("inputs"), "inputs"):
        tensor, used = _tensor(entry, rest, at)
        inputs.append(tensor)
        at += used
    if at != len(rest):
        raise BadRequest(f"Expected {at} bytes after the JSON, as binary_data_size says; received {len(rest)}.")
    outputs = _objects(value.get("outputs"), "outputs")
    said = {
        _text(entry, "name"): bool(flag)
        for entry in outputs
        if isinstance(flag := _object(entry.get("parameters"), "parameters").get("binary_data"), bool)
    }
    identity = value.get("id")
    return Body(
        identity if isinstance(identity, str) else None,
        parameters,
        inputs,
        [_text(entry, "name") for entry in outputs],
        said,
        binary_unless_said,
    )


def _tensor(entry: Mapping[str, Any], rest: bytes, at: int) -> tuple[Tensor, int]:
    """Return an input, and how many of the bytes after the JSON are its own."""
    name, datatype = _text(entry, "name"), _text(entry, "datatype")
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(isinstance(d, int) and not isinstance(d, bool) and d >= 0 for d in shape):
        raise BadRequest(f"Expected `shape` of input {name[:40]!r} to be a list of whole numbers.")
    size = _object(entry.get("parameters"), "parameters").get("binary_data_size")
    if size is None:
        return Tensor(name, datatype, tuple(shape), _from_json(entry.get("data"), datatype)), 0
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest) - at:
        raise BadRequest(
            f"Expected binary_data_size of input {name[:40]!r} from 0 to {len(rest) - at}, which is what is left of "
            f"the body; received {str(size)[:40]}."
        )
    return Tensor(name, datatype, tuple(shape), rest[at : at + size]), size


def _from_json(data: object, datatype: str) -> bytes:
    """Turn values written as JSON into bytes: images as base64, since JSON holds no bytes, pixels as numbers."""
    if datatype == "BYTES" and isinstance(data, list) and all(isinstance(one, str) for one in data):
        try:
            return b"".join(
                element(binascii.a2b_base64(one.rpartition(",")[2] if one[:5] == "data:" else one, strict_mode=True))
                for one in data
            )
        except ValueError as error:
            raise BadRequest(f"Expected BYTES in JSON to be base64, received something else: {error}.") from None
    if datatype == "UINT8" and isinstance(data, list):
        try:
            return np.asarray(data, np.uint8).tobytes()
        except (ValueError, OverflowError, TypeError):
            raise BadRequest("Expected UINT8 data to be whole numbers from 0 to 255, of one depth.") from None
    raise BadRequest("Expected `data`, a list of base64 strings (BYTES) or of numbers (UINT8), or binary_data_size.")


def write(body: Body, model: str, version: int, tensors: Sequence[Tensor]) -> Response:
    """Write an answer, with the bytes of those outputs after the JSON that were asked for so."""
    entries: list[dict[str, object]] = []
    rest = []
    for tensor in tensors:
        entry: dict[str, object] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if body.binary.get(tensor.name, body.binary_unless_said):
            entry["parameters"] = {"binary_data_size": len(tensor.data)}
            rest.append(tensor.data)
        else:
            values = np.frombuffer(tensor.data, _NUMPY[tensor.datatype])
            # JSON has no name for half precision, and its numbers are what they are.
            entry["data"] = values.astype(np.float32) if tensor.datatype == "FP16" else values
        entries.append(entry)
    told = {"model_name": model, "model_version": str(version), "outputs": entries}
    if body.identity is not None:
        told["id"] = body.identity
    head = orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)
    if not rest:
        return Response(head, media_type="application/json")
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return Response(b"".join((head, *rest)), headers=headers, media_type="application/octet-stream")


def _object(value: object, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"Expected `{name}` to be an object.")
    return value


def _objects(value: object, name: str) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise BadRequest(f"Expected `{name}` to be a list of objects.")
    return value


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"Expected `{name}` of each tensor to be a string.")
    return value
