"""Parts a SavedModel: ``serving_default`` for OpenVINO, the other signatures for a runtime that can do strings.

OpenVINO reads one signature, and the one named ``manifest`` answers with text. What the others need is written out as a
SavedModel of its own. For a model of the exporter that is four nodes and no weights, so nothing large is loaded twice.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from modelserver.errors import FailedPrecondition, NotFound
from modelserver.signatures import DEFAULT_SIGNATURE

TAG = "serve"
SAVED_MODEL = "saved_model.pb"
VARIABLES = {"VarHandleOp", "Variable", "VariableV2"}


@dataclass(frozen=True, slots=True)
class Parted:
    """A SavedModel, divided.

    Attributes:
        signature_defs: All signatures, as TensorFlow's messages.
        remainder: A serialised ``SavedModel`` of all signatures but the default one; empty when there are none.
    """

    signature_defs: Mapping[str, Any]
    remainder: bytes


def part(path: Path) -> Parted:
    """Read and divide the SavedModel in ``path``.

    Raises:
        NotFound: There is none in binary form.
        FailedPrecondition: It has no graph to serve, no ``serving_default``, or another signature needs variables.
    """
    meta_graph = _read(path)
    definitions = dict(meta_graph.signature_def.items())
    if DEFAULT_SIGNATURE not in definitions:
        raise FailedPrecondition(
            f"Expected a signature {DEFAULT_SIGNATURE!r}, which is what OpenVINO computes. Received: "
            f"{', '.join(sorted(definitions)) or 'none'}. --engine=tensorflow serves any signature"
        )
    others = {key: definition for key, definition in definitions.items() if key != DEFAULT_SIGNATURE}
    return Parted(definitions, _without_default(meta_graph, others) if others else b"")


def _read(path: Path) -> meta_graph_pb2.MetaGraphDef:
    file = path / SAVED_MODEL
    try:
        saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"Expected a SavedModel for OpenVINO: there is no {SAVED_MODEL} in {path}") from None
    except DecodeError as error:
        raise FailedPrecondition(f"Expected a SavedModel. Received a damaged file: {file}") from error
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == {TAG}:
            return meta_graph
    raise FailedPrecondition(f"Expected a graph with the tag {TAG!r} in {file}. Received: none")


def _without_default(meta_graph: meta_graph_pb2.MetaGraphDef, others: Mapping[str, Any]) -> bytes:
    """Keep the nodes that some signatures need, as a SavedModel."""
    tensors = [
        info.name for definition in others.values() for infos in (definition.inputs, definition.outputs)
        for info in infos.values()
    ]  # fmt: skip
    names = sorted({name.partition(":")[0] for name in tensors})
    graph = tf.compat.v1.graph_util.extract_sub_graph(meta_graph.graph_def, names)
    _check_frozen(graph.node, others)
    remainder = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    remainder.meta_graphs.add(meta_info_def=meta_graph.meta_info_def, graph_def=graph, signature_def=others)
    data: bytes = remainder.SerializeToString()
    return data


def _check_frozen(nodes: Iterable[Any], others: Mapping[str, Any]) -> None:
    if any(node.op in VARIABLES for node in nodes):
        raise FailedPrecondition(
            f"The signatures {', '.join(sorted(others))} need variables. Expected a frozen graph, as microtome export "
            "writes it. --engine=tensorflow serves this one"
        )
