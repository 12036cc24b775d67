"""The signatures of a SavedModel, and the check that a request fits one.

Texts and order of the checks are TensorFlow Serving's: number of inputs, their names, their bytes, names of the
outputs, and last, as execution does it, element types. ``Bounds`` and ``_check_rank`` are this server's own.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from microtome.tfserving.v1 import serving_pb2 as pb
from modelserver.errors import FailedPrecondition, InvalidArgument
from modelserver.tensors.codec import FIELDS, REQUEST_BYTES, Array, decode, decoded_bytes, type_name

DEFAULT_SIGNATURE = "serving_default"

Signatures = Mapping[str, pb.SignatureDef]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the inputs of one request may hold, checked before they are decoded: a few bytes may ask for gigabytes.

    Attributes:
        bytes: Of all inputs together, once they are decoded.
        rows: Of an input whose first dimension the signature leaves open; None for any.
    """

    bytes: int = REQUEST_BYTES
    rows: int | None = None


DEFAULT_BOUNDS = Bounds()


def find_signature(signatures: Signatures, key: str) -> pb.SignatureDef:
    """Look up a signature; an empty key means ``serving_default``.

    Raises:
        FailedPrecondition: The model has no signature of that name.
    """
    try:
        return signatures[key or DEFAULT_SIGNATURE]
    except KeyError:
        raise FailedPrecondition(f'Serving signature key "{key or DEFAULT_SIGNATURE}" not found.') from None


def bind(
    signature: pb.SignatureDef,
    sent: Mapping[str, Any],
    wanted: Sequence[str],
    bounds: Bounds = DEFAULT_BOUNDS,
) -> tuple[dict[str, Array], dict[str, str]]:
    """Fit a request to a signature.

    Args:
        signature: The inputs and outputs of the model, by the aliases that requests use.
        sent: The request's inputs, ``TensorProto`` by alias.
        wanted: The request's ``output_filter``; empty means all outputs.
        bounds: What the inputs may hold.

    Returns:
        Arrays by the name of the graph's tensor, sorted by that name; and tensor names by alias, sorted by alias, so
        that requests whose filters differ in order share a batch.

    Raises:
        InvalidArgument: Wrong number, names or bytes of inputs, names of outputs, element type or rank, too many rows.
        ResourceExhausted: The inputs take more bytes than they may.
    """
    _check_count(signature, sent)
    inputs = {alias: _input(signature, sent, alias) for alias in signature.inputs}
    left = bounds.bytes
    for alias, proto in inputs.items():
        _check_rows(signature.inputs[alias], proto, bounds.rows)
        left -= decoded_bytes(proto, alias, left)
    arrays = {alias: decode(proto, alias, bounds.bytes) for alias, proto in inputs.items()}
    if set(sent) - set(signature.inputs):
        used = set(sent) & set(signature.inputs)
        raise InvalidArgument(
            f"Inputs contains invalid name. Used request inputs: {_braces(used)}, request input: {_braces(sent)}"
        )
    outputs = _pick_outputs(signature, wanted)
    by_tensor = sorted(signature.inputs, key=lambda alias: signature.inputs[alias].name)
    for index, alias in enumerate(by_tensor):
        info, dtype = signature.inputs[alias], inputs[alias].dtype
        if dtype != info.dtype and info.dtype in FIELDS:
            raise InvalidArgument(
                f"Expects arg[{index}] to be {type_name(info.dtype)} but {type_name(dtype)} is provided"
            )
        _check_rank(alias, info, arrays[alias])
    return {signature.inputs[alias].name: arrays[alias] for alias in by_tensor}, outputs


def _check_count(signature: pb.SignatureDef, sent: Mapping[str, Any]) -> None:
    few_but_defaults = len(sent) < len(signature.inputs) and signature.defaults
    if len(sent) == len(signature.inputs) or few_but_defaults:
        return
    missing = set(signature.inputs) - set(sent) - set(signature.defaults)
    raise InvalidArgument(
        f"input size does not match signature: {len(sent)}!={len(signature.inputs)} len({_braces(sent)}) != "
        f"len({_braces(signature.inputs)}). Sent extra: {_braces(set(sent) - set(signature.inputs))}. "
        f"Missing but required: {_braces(missing)}."
    )


def _input(signature: pb.SignatureDef, sent: Mapping[str, Any], alias: str) -> pb.TensorProto:
    if alias not in sent and alias not in signature.defaults:
        raise InvalidArgument(
            f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not found in request and no "
            f"default value provided. Inputs expected to be in the request {_braces(sent)}, or default input alias "
            f"set: {_braces(signature.defaults)}"
        )
    proto: pb.TensorProto = sent[alias] if alias in sent else signature.defaults[alias]
    return proto


def _pick_outputs(signature: pb.SignatureDef, wanted: Sequence[str]) -> dict[str, str]:
    picked: dict[str, str] = {}
    for alias in wanted or signature.outputs:
        if alias not in signature.outputs:
            raise InvalidArgument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_braces(signature.outputs)}."
            )
        if alias in picked:
            raise InvalidArgument(f"duplicate output tensor alias: {alias}")
        picked[alias] = signature.outputs[alias].name
    return dict(sorted(picked.items()))


def _check_rows(info: pb.TensorInfo, proto: pb.TensorProto, most: int | None) -> None:
    """Refuse more rows than a batch may have, where the signature leaves their number open."""
    opened = info.tensor_shape.unknown_rank or (info.tensor_shape.dim and info.tensor_shape.dim[0].size < 0)
    if most is not None and opened and proto.tensor_shape.dim and proto.tensor_shape.dim[0].size > most:
        raise InvalidArgument(
            f"Task size {proto.tensor_shape.dim[0].size} is larger than maximum input batch size {most}"
        )


def _check_rank(alias: str, info: pb.TensorInfo, array: Array) -> None:
    """Refuse a wrong number of dimensions.

    Sizes are left to the graph, as in the real server. Ranks are not: a three-dimensional input of a frozen
    convolution ends the whole process in TensorFlow 2.20 ("Check failed: index >= 0" in tensor_format.h).
    """
    rank = len(info.tensor_shape.dim)
    if not info.tensor_shape.unknown_rank and array.ndim != rank:
        shape = ",".join(map(str, array.shape))
        raise InvalidArgument(f"input {alias} must be {rank}-dimensional: [{shape}]")


def _braces(names: Collection[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
