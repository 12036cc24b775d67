"""Parts a SavedModel: ``serving_default`` for OpenVINO, the other signatures for a runtime that can do strings.

OpenVINO reads one signature, and the one named ``manifest`` answers with text. What the others need is written out as a
SavedModel of its own. For a model of the exporter that is four nodes and no weights, so nothing large is loaded twice.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from modelserver.errors import FailedPrecondition, Internal, NotFound
from modelserver.saved_model_file import BINARY, read_meta_graph
from modelserver.saved_model_nodes import read_nodes
from modelserver.signatures import DEFAULT_SIGNATURE

TAG = "serve"
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
        NotFound: There is none in binary form, or none of its graphs is to be served.
        FailedPrecondition: It is damaged, has no ``serving_default``, or another signature needs variables.
    """
    meta_graph = _read(path)
    definitions = dict(meta_graph.signature_def.items())
    if DEFAULT_SIGNATURE not in definitions:
        raise FailedPrecondition(
            f"Expected a signature {DEFAULT_SIGNATURE!r}, which is what OpenVINO computes. Received: "
            f"{', '.join(sorted(definitions)) or 'none'}. --engine=tensorflow serves any signature"
        )
    others = {key: definition for key, definition in definitions.items() if key != DEFAULT_SIGNATURE}
    return Parted(definitions, _without_default(path, meta_graph, others) if others else b"")


def _read(path: Path) -> meta_graph_pb2.MetaGraphDef:
    """Read tags and signatures."""
    if not (path / BINARY).is_file():
        raise NotFound(f"Expected a SavedModel for OpenVINO: there is no {BINARY} in {path}")
    with _undamaged(path):
        return read_meta_graph(path, (TAG,))


def _without_default(path: Path, meta_graph: meta_graph_pb2.MetaGraphDef, others: Mapping[str, Any]) -> bytes:
    """Keep the nodes that some signatures need, as a SavedModel."""
    tensors = [
        info.name for definition in others.values() for infos in (definition.inputs, definition.outputs)
        for info in infos.values()
    ]  # fmt: skip
    with _undamaged(path):
        graph = read_nodes(path, TAG, {name.partition(":")[0] for name in tensors})
    _check_frozen(graph.node, others)
    remainder = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    remainder.meta_graphs.add(meta_info_def=meta_graph.meta_info_def, graph_def=graph, signature_def=others)
    data: bytes = remainder.SerializeToString()
    return data


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (Internal, DecodeError, ValueError, IndexError) as error:
        raise FailedPrecondition(f"Expected a SavedModel. Received a damaged file: {path / BINARY}") from error


def _check_frozen(nodes: Iterable[Any], others: Mapping[str, Any]) -> None:
    if any(node.op in VARIABLES for node in nodes):
        raise FailedPrecondition(
            f"The signatures {', '.join(sorted(others))} need variables. Expected a frozen graph, as microtome export "
            "writes it. --engine=tensorflow serves this one"
        )
