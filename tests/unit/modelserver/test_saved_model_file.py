"""Reading tags and signatures without the graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from modelserver.errors import Internal
from modelserver.saved_model_file import read_meta_graph
from modelserver.saved_model_nodes import read_nodes
from tests.contract.tfserving.tiny_models import write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write ``tiny``."""
    return write_tiny(tmp_path_factory.mktemp("tiny") / "1")


def test_signatures_are_those_that_parsing_the_whole_file_gives(tiny: Path) -> None:
    """Every one, to the last field; tags too, and nothing of the graph."""
    whole = saved_model_pb2.SavedModel.FromString((tiny / "saved_model.pb").read_bytes()).meta_graphs[0]

    meta_graph = read_meta_graph(tiny, ["serve"])

    assert whole.meta_info_def == meta_graph.meta_info_def
    assert dict(whole.signature_def) == dict(meta_graph.signature_def)
    assert not meta_graph.HasField("graph_def")


def test_no_byte_of_the_graph_is_looked_at(tmp_path: Path) -> None:
    """What stands there may be as long as it likes and need not even be a graph."""
    meta_graph = saved_model_pb2.SavedModel().meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    meta_graph.signature_def["only"].method_name = "method"
    noise = b"\xff" * 100_000
    body = meta_graph.SerializeToString() + b"\x12" + _varint(len(noise)) + noise
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01\x12" + _varint(len(body)) + body)

    assert ["only"] == list(read_meta_graph(tmp_path, ["serve"]).signature_def)


@pytest.mark.parametrize("length", [0, 1, 3, 50, 200, -1])
def test_a_file_cut_short_is_damaged_and_nothing_worse(tiny: Path, tmp_path: Path, length: int) -> None:
    """Wherever it was cut; the message names the directory."""
    (tmp_path / "saved_model.pb").write_bytes((tiny / "saved_model.pb").read_bytes()[:length])

    with pytest.raises(Internal, match=f"The SavedModel in {tmp_path} is damaged"):
        read_meta_graph(tmp_path, ["serve"])


def test_nodes_are_those_that_tensorflow_would_extract(tiny: Path) -> None:
    """What a signature's output needs, and no other, to the last field."""
    whole = saved_model_pb2.SavedModel.FromString((tiny / "saved_model.pb").read_bytes()).meta_graphs[0]
    output = whole.signature_def["work"].outputs["done"].name.partition(":")[0]

    graph = read_nodes(tiny, "serve", [output])

    assert tf.compat.v1.graph_util.extract_sub_graph(whole.graph_def, [output]) == graph
    assert 1 < len(graph.node) < len(whole.graph_def.node)


def test_a_node_that_is_not_there_is_an_error(tiny: Path) -> None:
    """A signature that names it is damaged."""
    with pytest.raises(ValueError, match="the graph has no node nobody"):
        read_nodes(tiny, "serve", ["nobody"])


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
