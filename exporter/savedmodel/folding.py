"""Fold what follows a convolution, depthwise convolution or matrix product into its weights: batch norms, above all.

A batch norm in inference is y·scale + offset for each channel, and so are biases, fixed multipliers and sums. A chain
of them becomes scaled weights and one `BiasAdd`, which TensorFlow fuses with the convolution and its activation. The
arithmetic is float64; only the result is rounded. See docs/decisions/0090.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

Array = np.ndarray[Any, Any]

_FOLDED = ("Conv2D", "DepthwiseConv2dNative", "MatMul")
_LINEAR = ("Add", "AddV2", "BiasAdd", "Mul", "Sub")
_FORWARDING = ("Cast", "Identity")
_UNROUNDED: Mapping[str, Callable[..., Array]] = {
    "Add": np.add,
    "AddV2": np.add,
    "Cast": np.asarray,
    "Identity": np.asarray,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Reshape": lambda values, shape: values.reshape(shape.astype(int)),
    "Rsqrt": lambda values: 1 / np.sqrt(values),
    "Sub": np.subtract,
}
"""Operations between weights that batch norms consist of, in float64."""


@dataclass(frozen=True, slots=True)
class _Chain:
    """What a convolution and its followers compute: convolution · scale + offset.

    Attributes:
        end: The last follower; the convolution itself without any.
        scale: float64 [channels].
        offset: float64 [channels].
        dtype: Of what the last follower returns.
    """

    end: tf.compat.v1.NodeDef
    scale: Array
    offset: Array
    dtype: int

    @property
    def scales(self) -> bool:
        """Whether the weights change."""
        return bool((self.scale != 1).any())


class _Graph:
    """A graph's nodes by name, and who takes their tensors."""

    def __init__(self, definition: tf.compat.v1.GraphDef) -> None:
        self.nodes = {node.name: node for node in definition.node}
        self.takers: dict[str, list[tf.compat.v1.NodeDef]] = defaultdict(list)
        for node in definition.node:
            for source in _sources(node):
                self.takers[source].append(node)

    def value(self, name: str) -> Array | None:
        """Compute a tensor from constants in float64; None if it depends on the input, or is computed otherwise."""
        node = self.nodes[name]
        if node.op == "Const":
            values = tf.make_ndarray(node.attr["value"].tensor)
            return values.astype(np.float64) if values.dtype.kind in "fiuV" else None
        given: list[Array] = []
        for source in _sources(node):
            values = self.value(source)
            if values is None:
                return None
            given.append(values)
        if node.op == "Squeeze":
            axes = tuple(node.attr["squeeze_dims"].list.i) if "squeeze_dims" in node.attr else ()
            return np.asarray(np.squeeze(given[0], axes or None))
        return _UNROUNDED[node.op](*given) if node.op in _UNROUNDED and given else None

    def weights(self, node: tf.compat.v1.NodeDef) -> tuple[tuple[int, ...], bool] | None:
        """Return the shape of a node's weights and whether no other node takes them; None unless they are constant."""
        source, alone = self.nodes[_sources(node)[1]], True
        while source.op in _FORWARDING:
            alone &= len(self.takers[source.name]) == 1
            source = self.nodes[_sources(source)[0]]
        if source.op != "Const":
            return None
        shape = tuple(side.size for side in source.attr["value"].tensor.tensor_shape.dim)
        return shape, alone and len(self.takers[source.name]) == 1


def fold_batch_norms(definition: tf.compat.v1.GraphDef) -> None:
    """Fold batch norms, and whatever else is linear for each channel, into the weights before them, in place.

    What several nodes take, an output of the graph among them, keeps its value: a convolution that is cut at itself
    stays as it is, with its batch norm after it. A graph without anything to fold stays the same to the last bit.

    Args:
        definition: Frozen and flat. Nodes that are needed no more stay in it, but nothing depends on them.
    """
    graph = _Graph(definition)
    added: list[tf.compat.v1.NodeDef] = []
    for node in definition.node:
        if node.op in _FOLDED and not _is_other_layout(node):
            added += _folded(graph, node)
    if added:
        definition.node.extend(added)
        without_order(definition)


def without_order(definition: tf.compat.v1.GraphDef) -> None:
    """Drop the control inputs, which order nothing among constants but keep the weights of a traced function."""
    for node in definition.node:
        sources = [text for text in node.input if not text.startswith("^")]
        if len(sources) < len(node.input):
            del node.input[:]
            node.input.extend(sources)


def constant(name: str, values: Array, dtype: tf.DType) -> tf.compat.v1.NodeDef:
    """Return a node for a constant in another type, without the four bytes that make_tensor_proto takes for a half."""
    node = tf.compat.v1.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = dtype.as_datatype_enum
    tensor = node.attr["value"].tensor
    tensor.dtype = dtype.as_datatype_enum
    tensor.tensor_shape.CopyFrom(tf.TensorShape(values.shape).as_proto())
    with np.errstate(over="ignore"):  # infinite then, which callers look for
        tensor.tensor_content = np.ascontiguousarray(values.astype(dtype.as_numpy_dtype)).tobytes()
    return node


def _is_other_layout(node: tf.compat.v1.NodeDef) -> bool:
    """Whether channels do not come last."""
    # Reading an attribute that is not there would add it.
    layout = node.attr["data_format"].s if "data_format" in node.attr else b""
    return bool(layout == b"NCHW" or ("transpose_b" in node.attr and node.attr["transpose_b"].b))


def _folded(graph: _Graph, node: tf.compat.v1.NodeDef) -> list[tf.compat.v1.NodeDef]:
    """Fold what follows a node into its weights, in place, and return the new constants; none if nothing follows."""
    found = graph.weights(node)
    if found is None:
        return []
    shape, owned = found
    # A depthwise convolution's channels are those of its input, times a multiplier.
    last = shape[2:] if node.op == "DepthwiseConv2dNative" else shape[-1:]
    dtype = tf.as_dtype(node.attr["T"].type)
    best = start = _Chain(node, np.ones(last).ravel(), np.zeros(last).ravel(), dtype.as_datatype_enum)
    for chain in _chains(graph, start, rank=2 if node.op == "MatMul" else 4):
        if chain.dtype == start.dtype and (owned or not chain.scales):
            best = chain
    if best is start or (best.end.op == "BiasAdd" and _sources(best.end)[0] == node.name):
        return []
    added = [constant(f"{best.end.name}/offset", best.offset, dtype)]
    if best.scales:
        weights = graph.value(_sources(node)[1])
        added.append(constant(f"{best.end.name}/weights", weights * best.scale.reshape(last), dtype))
    if not all(np.isfinite(tf.make_ndarray(new.attr["value"].tensor)).all() for new in added):
        return []  # float16 ends at 65504
    if best.scales:
        node.input[1] = added[1].name
    best.end.CopyFrom(tf.compat.v1.NodeDef(name=best.end.name, op="BiasAdd", input=[node.name, added[0].name]))
    best.end.attr["T"].type = dtype.as_datatype_enum
    return added


def _chains(graph: _Graph, chain: _Chain, rank: int) -> Iterator[_Chain]:
    """Yield the chain with one follower more, as long as the last one's tensor goes to one follower of a known kind."""
    start = chain.dtype
    while len(takers := graph.takers[chain.end.name]) == 1:
        taker = takers[0]
        if taker.op == "Cast" and taker.attr["DstT"].type in (start, tf.float32.as_datatype_enum):
            chain = replace(chain, end=taker, dtype=taker.attr["DstT"].type)
        elif taker.op in _LINEAR and not _is_other_layout(taker):
            longer = _longer(graph, chain, taker, rank)
            if longer is None:
                return
            chain = longer
        else:
            return
        yield chain


def _longer(graph: _Graph, chain: _Chain, taker: tf.compat.v1.NodeDef, rank: int) -> _Chain | None:
    """Return the chain with a sum, difference or product more; None unless its other side is constant by channel."""
    first, second = _sources(taker)
    if taker.op == "Sub" and second == chain.end.name:
        return None
    values = graph.value(second if first == chain.end.name else first)
    if values is None or values.ndim > rank or values.size not in (1, len(chain.scale)):
        return None
    if values.size != 1 and values.shape[-1] != values.size:
        return None  # along height or width
    values = values.ravel()
    if taker.op == "Mul":
        return replace(chain, end=taker, scale=chain.scale * values, offset=chain.offset * values)
    return replace(chain, end=taker, offset=chain.offset - values if taker.op == "Sub" else chain.offset + values)


def _sources(node: tf.compat.v1.NodeDef) -> list[str]:
    """Return the nodes whose tensors a node takes, in order."""
    return [text.partition(":")[0] for text in node.input if not text.startswith("^")]
