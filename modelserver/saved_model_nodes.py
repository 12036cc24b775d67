"""Reads some nodes of a SavedModel's graph, and those that they need, without parsing the rest with its weights."""

import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tensorflow.core.framework import graph_pb2, node_def_pb2

from modelserver.saved_model_file import BINARY, META_GRAPHS, without_graph
from modelserver.wire_fields import Field, fields, mapped

_GRAPH_DEF = 2
"""Field of ``MetaGraphDef``."""

_NODE = 1
"""Field of ``GraphDef``."""

_NAME = 1
"""Field of ``NodeDef``."""


def read_nodes(path: Path, tag: str, names: Iterable[str]) -> graph_pb2.GraphDef:
    """Read nodes with all that they depend on, in the order of the file.

    Args:
        path: The SavedModel's directory, with the graph in binary form.
        tag: The one tag of the graph.
        names: Names of nodes.

    Returns:
        A graph of these nodes, with the functions and versions of the whole.

    Raises:
        ValueError: The file is damaged, or has no such node.
    """
    graph, places = graph_pb2.GraphDef(), dict[str, Field]()
    with mapped(path / BINARY) as data:
        for field in _graph_fields(data, tag):
            if field.number == _NODE:
                places[_name(data, field)] = field
            else:
                graph.MergeFromString(data[field.start : field.end])
        nodes = _needed(data, places, names)
    graph.node.extend(nodes[name] for name in places if name in nodes)
    return graph


def _graph_fields(data: mmap.mmap, tag: str) -> Iterator[Field]:
    """Walk over the fields of the graph that has the tag."""
    for outer in fields(data, 0, len(data)):
        if outer.number == META_GRAPHS and list(without_graph(data, outer).meta_info_def.tags) == [tag]:
            for inner in fields(data, outer.payload, outer.end):
                if inner.number == _GRAPH_DEF:
                    yield from fields(data, inner.payload, inner.end)
            return


def _name(data: mmap.mmap, node: Field) -> str:
    for field in fields(data, node.payload, node.end):
        if field.number == _NAME:
            return data[field.payload : field.end].decode()
    raise ValueError(f"a node without a name at byte {node.start}")


def _needed(data: mmap.mmap, places: Mapping[str, Field], names: Iterable[str]) -> Mapping[str, node_def_pb2.NodeDef]:
    """Parse nodes, what they take, what that takes, and so on."""
    nodes: dict[str, node_def_pb2.NodeDef] = {}
    wanted = list(names)
    while wanted:
        name = wanted.pop()
        if name in nodes:
            continue
        if name not in places:
            raise ValueError(f"the graph has no node {name}")
        node = node_def_pb2.NodeDef.FromString(data[places[name].payload : places[name].end])
        nodes[name] = node
        wanted += [taken.removeprefix("^").partition(":")[0] for taken in node.input]
    return nodes
