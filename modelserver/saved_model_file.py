"""Reads what a SavedModel says of itself without reading its graph, which may be hundreds of megabytes of weights.

``saved_model.pb`` is one protobuf message. Fields that are not wanted are stepped over: no byte of a weight is read.
"""

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from modelserver.errors import Internal, NotFound
from modelserver.wire_fields import Field, fields, mapped

BINARY, TEXT = "saved_model.pb", "saved_model.pbtxt"

META_GRAPHS = 2
"""Field of ``SavedModel``."""

_WANTED = {1, 5}
"""Fields of ``MetaGraphDef``: ``meta_info_def`` with the tags, ``signature_def``."""


def read_meta_graph(path: Path, tags: Sequence[str]) -> meta_graph_pb2.MetaGraphDef:
    """Read tags and signatures of the graph that has just these tags.

    Args:
        path: The SavedModel's directory.
        tags: The tags.

    Returns:
        A message with the fields ``meta_info_def`` and ``signature_def``, and no other.

    Raises:
        NotFound: There is no SavedModel, or none of its graphs has these tags.
        Internal: The file is damaged.
    """
    try:
        for meta_graph in _meta_graphs(path):
            if set(meta_graph.meta_info_def.tags) == set(tags):
                return meta_graph
    except (DecodeError, text_format.ParseError, ValueError, IndexError) as error:
        raise Internal(f"The SavedModel in {path} is damaged: {error}") from error
    raise NotFound(
        f"Could not find meta graph def matching supplied tags: {{ {' '.join(tags)} }}. To inspect available tag-sets "
        "in the SavedModel, please use the SavedModel CLI: `saved_model_cli`"
    )


def _meta_graphs(path: Path) -> Iterator[meta_graph_pb2.MetaGraphDef]:
    if (binary := path / BINARY).is_file():
        with mapped(binary) as data:
            for field in fields(data, 0, len(data)):
                if field.number == META_GRAPHS:
                    yield without_graph(data, field)
    elif (text := path / TEXT).is_file():
        yield from text_format.Parse(text.read_text(encoding="utf-8"), saved_model_pb2.SavedModel()).meta_graphs
    else:
        raise NotFound(
            "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
            f"`{BINARY}`)\nSpecified file path: {path}"
        )


def without_graph(data: mmap.mmap, whole: Field) -> meta_graph_pb2.MetaGraphDef:
    """Parse tags and signatures of the ``MetaGraphDef`` that stands in a field."""
    meta_graph = meta_graph_pb2.MetaGraphDef()
    for field in fields(data, whole.payload, whole.end):
        if field.number in _WANTED:
            meta_graph.MergeFromString(data[field.start : field.end])
    return meta_graph
