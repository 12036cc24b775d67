"""Reads what a SavedModel says of itself without reading its graph, which may be hundreds of megabytes of weights.

``saved_model.pb`` is one protobuf message. Its fields are walked on the wire (https://protobuf.dev/programming-guides/
encoding), in memory mapped from the file, and those that are not wanted are stepped over: no byte of a weight is read.
"""

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from modelserver.errors import Internal, NotFound

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
        with binary.open("rb") as file:
            if not file.seek(0, 2):
                raise ValueError(f"{BINARY} is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                for field in _fields(data, 0, len(data)):
                    if field.number == META_GRAPHS:
                        yield _without_graph(data, field)
    elif (text := path / TEXT).is_file():
        yield from text_format.Parse(text.read_text(encoding="utf-8"), saved_model_pb2.SavedModel()).meta_graphs
    else:
        raise NotFound(
            "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
            f"`{BINARY}`)\nSpecified file path: {path}"
        )


def _without_graph(data: mmap.mmap, whole: "_Field") -> meta_graph_pb2.MetaGraphDef:
    """Parse the wanted fields of a ``MetaGraphDef``."""
    meta_graph = meta_graph_pb2.MetaGraphDef()
    for field in _fields(data, whole.payload, whole.end):
        if field.number in _WANTED:
            meta_graph.MergeFromString(data[field.start : field.end])
    return meta_graph


@dataclass(frozen=True, slots=True)
class _Field:
    """Where a field of a message stands: from its tag, its payload, to its end."""

    number: int
    start: int
    payload: int
    end: int


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    """Walk over the fields of one message; ValueError when they do not fill it exactly."""
    while start < end:
        tag, payload = _varint(data, start)
        match tag & 7:
            case 0:
                _, after = _varint(data, payload)
            case 1:
                after = payload + 8
            case 2:
                length, payload = _varint(data, payload)
                after = payload + length
            case 5:
                after = payload + 4
            case kind:
                raise ValueError(f"a field of wire type {kind} at byte {start}")
        if after > end:
            raise ValueError(f"a field that begins at byte {start} goes beyond its message")
        yield _Field(tag >> 3, start, payload, after)
        start = after


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, lowest first; returns it and where it ends."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
        if shift > 63:
            raise ValueError(f"a number that does not end at byte {at}")
