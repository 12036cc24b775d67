"""What a SavedModel says it takes and gives, and whether a request fits it.

The texts are TensorFlow Serving's, and so is the order of the checks: number of inputs, their names, their bytes, the
names of the outputs, and last, as running does it, the element types. One check is ours: see ``_check_rank``.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.errors import FailedPrecondition, InvalidArgument
from modelserver.tensor_decoding import Array, decode, from_memory
from modelserver.tensor_types import TYPES, type_name

if TYPE_CHECKING:
    from tensorflow.core.framework import tensor_pb2
    from tensorflow.core.protobuf import meta_graph_pb2

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a signature.

    Attributes:
        tensor: Its name in the graph, such as ``images:0``.
        dtype: Number of its element type.
        rank: How many dimensions it has; None when the signature does not say.
    """

    tensor: str
    dtype: int
    rank: int | None


@dataclass(frozen=True, slots=True)
class Signature:
    """A named way to call a model: tensors by the aliases that requests use."""

    key: str
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    defaults: Mapping[str, Any] = field(default_factory=dict)


def read_signature(key: str, signature_def: "meta_graph_pb2.SignatureDef") -> Signature:
    """Read a ``tensorflow.SignatureDef``."""

    def tensors(infos: Mapping[str, Any]) -> dict[str, TensorInfo]:
        return {
            alias: TensorInfo(
                info.name, info.dtype, None if info.tensor_shape.unknown_rank else len(info.tensor_shape.dim)
            )
            for alias, info in infos.items()
        }

    return Signature(
        key, tensors(signature_def.inputs), tensors(signature_def.outputs), dict(signature_def.defaults.items())
    )


def find_signature(signatures: Mapping[str, Signature], key: str) -> Signature:
    """Look a signature up; an empty key means ``serving_default``.

    Raises:
        FailedPrecondition: There is none of that name.
    """
    key = key or DEFAULT_SIGNATURE
    try:
        return signatures[key]
    except KeyError:
        raise FailedPrecondition(f'Serving signature key "{key}" not found.') from None


@dataclass(frozen=True, slots=True)
class Call:
    """A request that fits its signature.

    Attributes:
        feeds: Arrays by the name of the graph's tensor, sorted by that name.
        outputs: Tensor names by alias, sorted by alias: the order of a filter must not keep requests from sharing a
            batch.
    """

    feeds: Mapping[str, Array]
    outputs: Mapping[str, str]

    def with_content(self, tensor: str, content: memoryview) -> "Call":
        """Return the same call with other bytes for one of its feeds, as many as that has."""
        array = self.feeds[tensor]
        return Call({**self.feeds, tensor: from_memory(content, array.dtype).reshape(array.shape)}, self.outputs)

    def without_content(self, tensor: str) -> "Call":
        """Return the same call with one of its feeds blank, so that it takes no memory."""
        array = self.feeds[tensor]
        blank = np.broadcast_to(np.zeros((), array.dtype), array.shape)
        return Call({**self.feeds, tensor: blank}, self.outputs)


def bind(
    signature: Signature,
    sent: Mapping[str, Any],
    wanted: Sequence[str],
    contents: Mapping[str, memoryview] = MappingProxyType({}),
) -> Call:
    """Fit a request to a signature.

    Args:
        signature: What the model takes and gives.
        sent: The request's inputs, ``TensorProto`` by alias.
        wanted: The request's ``output_filter``; empty means all outputs.
        contents: By alias, ``tensor_content`` that was lifted out of an input.

    Raises:
        InvalidArgument: Wrong number, names or bytes of inputs, names of outputs, element type or rank.
    """
    _check_count(signature, sent)
    inputs = {alias: _input(signature, sent, alias) for alias in signature.inputs}
    arrays = {alias: decode(proto, alias, contents.get(alias)) for alias, proto in inputs.items()}
    _check_extra(signature, sent)
    outputs = _pick_outputs(signature, wanted)
    by_tensor = sorted(signature.inputs, key=lambda alias: signature.inputs[alias].tensor)
    for index, alias in enumerate(by_tensor):
        _check_type(index, signature.inputs[alias], inputs[alias].dtype)
        _check_rank(alias, signature.inputs[alias], arrays[alias])
    return Call({signature.inputs[alias].tensor: arrays[alias] for alias in by_tensor}, outputs)


def _input(signature: Signature, sent: Mapping[str, Any], alias: str) -> "tensor_pb2.TensorProto":
    proto = sent[alias] if alias in sent else signature.defaults.get(alias)
    if proto is None:
        raise InvalidArgument(
            f"Signature input alias: {alias}(feed name: {signature.inputs[alias].tensor}) not found in request and no "
            f"default value provided. Inputs expected to be in the request {_braces(sent)}, or default input alias "
            f"set: {_braces(signature.defaults)}"
        )
    return proto


def _check_extra(signature: Signature, sent: Mapping[str, Any]) -> None:
    if set(sent) - set(signature.inputs):
        used = set(sent) & set(signature.inputs)
        raise InvalidArgument(
            f"Inputs contains invalid name. Used request inputs: {_braces(used)}, request input: {_braces(sent)}"
        )


def _pick_outputs(signature: Signature, wanted: Sequence[str]) -> dict[str, str]:
    picked: dict[str, str] = {}
    for alias in wanted or signature.outputs:
        if alias not in signature.outputs:
            raise InvalidArgument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_braces(signature.outputs)}."
            )
        if alias in picked:
            raise InvalidArgument(f"duplicate output tensor alias: {alias}")
        picked[alias] = signature.outputs[alias].tensor
    return dict(sorted(picked.items()))


def _check_count(signature: Signature, sent: Mapping[str, Any]) -> None:
    few_but_defaults = len(sent) < len(signature.inputs) and signature.defaults
    if len(sent) == len(signature.inputs) or few_but_defaults:
        return
    missing = set(signature.inputs) - set(sent) - set(signature.defaults)
    raise InvalidArgument(
        f"input size does not match signature: {len(sent)}!={len(signature.inputs)} len({_braces(sent)}) != "
        f"len({_braces(signature.inputs)}). Sent extra: {_braces(set(sent) - set(signature.inputs))}. "
        f"Missing but required: {_braces(missing)}."
    )


def _check_type(index: int, info: TensorInfo, dtype: int) -> None:
    if dtype != info.dtype and info.dtype in TYPES:
        raise InvalidArgument(f"Expects arg[{index}] to be {type_name(info.dtype)} but {type_name(dtype)} is provided")


def _check_rank(alias: str, info: TensorInfo, array: Array) -> None:
    """Refuse a wrong number of dimensions before TensorFlow sees it.

    Sizes are left to the graph, as the real server does, but ranks must not be: a three-dimensional input of a frozen
    convolution ends the whole process in TensorFlow 2.20 ("Check failed: index >= 0" in tensor_format.h).
    """
    if info.rank is not None and array.ndim != info.rank:
        shape = ",".join(map(str, array.shape))
        raise InvalidArgument(f"input {alias} must be {info.rank}-dimensional: [{shape}]")


def _braces(names: Collection[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
